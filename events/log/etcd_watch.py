"""One watch stream of etcd, from its opening to its end, with a stall detector.

A watch here is a hint that saves time: whoever needs certainty compares offsets or lists again.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.log.errors import Compacted, EtcdRefused, LogUnavailable
from events.log.etcd_connection import CLOSED_UNDER_A_CALL, EtcdConnection, Purpose, caller_is_cancelled
from events.log.etcd_wire import WatchEvent, WatchNotice, watch_event

IDLE_S = 5.0
"""After this long without an answer the server is asked for a sign of life, after twice as long the watch is dead."""


async def watch_range(
    connection: EtcdConnection,
    start: bytes,
    end: bytes,
    *,
    start_revision: int,
    puts_only: bool = False,
    idle_s: float = IDLE_S,
) -> AsyncIterator[WatchNotice]:
    """Notices of changes in [start, end) from `start_revision` on; see `EtcdClient.watch_prefix` for the errors."""
    create = rpc_pb2.WatchCreateRequest(
        key=start,
        range_end=end,
        start_revision=start_revision,
        progress_notify=True,
        fragment=True,
        filters=[rpc_pb2.WatchCreateRequest.NODELETE] if puts_only else [],
    )
    channel = connection.channel(Purpose.WATCH)
    stream = rpc_pb2_grpc.WatchStub(channel).Watch(metadata=connection.metadata())
    # An answer split by etcd into fragments is handed on only when whole: events of one revision stay together.
    gathered: list[WatchEvent] = []
    try:
        await stream.write(rpc_pb2.WatchRequest(create_request=create))
        async for response in _responses(stream, idle_s):
            if response.canceled:
                await _raise_cancelled(connection, response)
            gathered += (watch_event(event) for event in response.events)
            if not response.fragment:
                yield WatchNotice(response.header.revision, tuple(gathered), response.created)
                gathered.clear()
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            await connection.refresh_login()
        raise connection.translate(error, Purpose.WATCH, channel) from error
    except LogUnavailable:
        # A paused member keeps its connections: a new watch on this one would be as silent.
        connection.leave(Purpose.WATCH, channel)
        raise
    except asyncio.CancelledError as error:
        if caller_is_cancelled():
            raise
        raise LogUnavailable(CLOSED_UNDER_A_CALL) from error
    except asyncio.InvalidStateError as error:
        # grpc.aio answers a write to a stream that has ended meanwhile with this.
        raise LogUnavailable("the watch was closed by etcd; list and watch again") from error
    finally:
        stream.cancel()


async def _responses(stream: Any, idle_s: float) -> AsyncIterator[Any]:
    """What the stream says, until it ends or is silent for `2 * idle_s`."""
    asked = False
    # Cancelling grpc.aio's read() ends the whole call, so time-outs wait on a task that lives on.
    reading = asyncio.ensure_future(stream.read())
    try:
        while True:
            await asyncio.wait((reading,), timeout=idle_s)
            if reading.done():
                if reading.cancelled():
                    raise LogUnavailable("the watch's connection was closed; list and watch again")
                response = reading.result()
                if response is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs forgot it
                    raise LogUnavailable("the watch was ended by etcd; list and watch again")
                asked = False
                reading = asyncio.ensure_future(stream.read())
                yield response
            elif asked:
                raise LogUnavailable(f"the watch was silent for {2 * idle_s:g} s; list and watch again")
            else:
                asked = True
                progress = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
                async with asyncio.timeout(idle_s):
                    await stream.write(progress)
    except TimeoutError as error:
        raise LogUnavailable(f"the watch took no request for {idle_s:g} s; list and watch again") from error
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
        if not reading.cancelled():
            reading.exception()


async def _raise_cancelled(connection: EtcdConnection, response: Any) -> None:
    if response.compact_revision:
        raise Compacted(f"history before revision {response.compact_revision} is compacted; list and watch from there")
    if connection.settings.username is not None and "permission" in response.cancel_reason:
        # etcd reports a watch's stale token as a missing permission; a permission truly missing fails the next list.
        await connection.refresh_login()
        raise LogUnavailable(f"etcd cancelled the watch: {response.cancel_reason}; logged in again")
    raise EtcdRefused(f"etcd cancelled the watch: {response.cancel_reason or 'no reason given'}")
