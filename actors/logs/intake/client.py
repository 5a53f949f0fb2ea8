"""Writes operation and build logs to the gRPC intake of whichever member answers, again until answered, stored once."""

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from pathlib import Path

import grpc

from actors.logs.background import Background
from actors.logs.errors import BY_CODE, AccessRefused, LogError, StorageFailed, StreamMoved, Unreachable, WrongPosition
from actors.logs.intake import lines_pb2
from actors.logs.intake.service import METHOD, NONCE, OPTIONS, PROOF, SERVICE, proof
from actors.logs.line import LineRecord
from actors.logs.view import Appended
from events.clock import now_micros

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 2.0

_Call = grpc.aio.StreamStreamCall[lines_pb2.WriteRequest, lines_pb2.WriteReply]


class IntakeClient:
    """Speaks to the members whose sockets (`*.grpc`) are in `directory`. `aclose` ends it."""

    def __init__(self, directory: Path, token: str) -> None:
        self._directory = directory
        self._token = token
        self._channel: grpc.aio.Channel | None = None
        self._requests: asyncio.Queue[lines_pb2.WriteRequest] = asyncio.Queue(256)
        self._waiting: dict[int, asyncio.Future[lines_pb2.WriteReply]] = {}
        self._opening = asyncio.Lock()
        self._next_id = 0
        self._tasks = Background("log intake client")

    async def aclose(self) -> None:
        """Requests under way raise Unreachable."""
        await self._tasks.aclose()
        await self._drop("the client was closed")

    async def append(
        self,
        stream: str,
        source_id: str,
        lines: Sequence[LineRecord],
        *,
        after: int,
        upto: int,
        seconds: float | None = None,
    ) -> Appended:
        """As `LogClient.append`."""
        wire = [
            lines_pb2.Line(
                at_micros=line.at,
                text=line.text,
                source=line.source,
                instance=line.instance,
                release=line.release,
                partial=line.partial,
                gap=line.gap,
            )
            for line in lines
        ]
        request = lines_pb2.WriteRequest(stream=stream, source_id=source_id, after=after, upto=upto, lines=wire)
        reply = await self._request(request, seconds)
        return Appended(first=reply.first, next_number=reply.next_number, duplicate=reply.duplicate)

    async def close_stream(self, stream: str, outcome: str, *, seconds: float | None = None) -> None:
        """As `LogClient.close_stream`."""
        await self._request(
            lines_pb2.WriteRequest(stream=stream, outcome=outcome[:40] or "ended", at_micros=now_micros()), seconds
        )

    async def _request(self, request: lines_pb2.WriteRequest, seconds: float | None) -> lines_pb2.WriteReply:
        wait = _BACKOFF_FIRST
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._once(request)
                    except (Unreachable, StorageFailed, StreamMoved) as error:
                        _log.debug("log intake: %s; trying again", error)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
                    wait = min(wait * 2, _BACKOFF_MOST)
        except TimeoutError as error:
            raise Unreachable(f"no log intake in {self._directory} took the lines in {seconds} s") from error

    async def _once(self, request: lines_pb2.WriteRequest) -> lines_pb2.WriteReply:
        async with self._opening:
            if self._channel is None:
                await self._open()
        self._next_id += 1
        sent = lines_pb2.WriteRequest()
        sent.CopyFrom(request)
        sent.id = self._next_id
        future = self._waiting[sent.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._requests.put(sent)
                reply: lines_pb2.WriteReply = await future
        except TimeoutError as error:
            await self._drop("no answer in time")
            raise Unreachable(f"the log intake gave no answer in {ANSWER_SECONDS} s") from error
        finally:
            self._waiting.pop(sent.id, None)
        if reply.code == WrongPosition.code:
            raise WrongPosition(reply.message, reply.stored)
        if reply.code:
            raise BY_CODE.get(reply.code, LogError)(reply.message)
        return reply

    async def _open(self) -> None:
        sockets = await asyncio.to_thread(lambda: sorted(self._directory.glob("*.grpc")))
        if not sockets:
            raise Unreachable(f"expected the socket of a log intake in {self._directory}, found none")
        socket = random.choice(sockets)  # noqa: S311 (any will do)
        channel = grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS)
        nonce = secrets.token_hex(16)
        method = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=lines_pb2.WriteRequest.SerializeToString,
            response_deserializer=lines_pb2.WriteReply.FromString,
        )
        call = method(None, metadata=((NONCE, nonce), (PROOF, proof(self._token, "client", nonce))))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                said = dict(await call.initial_metadata() or ())
                code = grpc.StatusCode.OK if PROOF in said else await call.code()
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            await channel.close(None)
            raise Unreachable(f"the log intake at {socket} cannot be reached: {error}") from error
        if said.get(PROOF) != proof(self._token, "server", nonce):
            await channel.close(None)
            if code == grpc.StatusCode.UNAUTHENTICATED:
                raise AccessRefused("expected the log intake to take this node's token, found that it does not")
            raise Unreachable(f"expected the log intake to prove that it has the token, found that it cannot ({code})")
        self._channel = channel
        self._requests = asyncio.Queue(256)
        self._tasks.start(self._read(call, channel))
        self._tasks.start(self._send(call, self._requests))

    @staticmethod
    async def _send(call: _Call, requests: "asyncio.Queue[lines_pb2.WriteRequest]") -> None:
        try:
            while True:
                await call.write(await requests.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader of the answers sees the same end

    async def _read(self, call: _Call, channel: grpc.aio.Channel) -> None:
        try:
            async for reply in call:
                future = self._waiting.get(reply.id)
                if future is not None and not future.done():
                    future.set_result(reply)
            why = "the stream ended"
        except grpc.aio.AioRpcError as error:
            why = str(error.details())
        if self._channel is channel:
            await self._drop(why)

    async def _drop(self, why: str) -> None:
        channel, self._channel = self._channel, None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable(f"log intake: {why}"))
        if channel is not None:
            await channel.close(None)
