"""A small asyncio client for etcd: what the log needs, and pleasant helpers for the platform's other small keys.

Offers no sorting and no revision filters: etcd would read whole ranges for them. Knows nothing of the log.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.failpoints import failpoint
from events.log.errors import Compacted, EtcdRefused, LogUnavailable
from events.log.etcd_connection import EtcdConnection, EtcdSettings, Purpose
from events.log.etcd_lease import KeptLease
from events.log.etcd_watch import watch_range
from events.log.etcd_wire import (
    Condition,
    EtcdStatus,
    KeyValue,
    Listing,
    ModRevisionIs,
    Operation,
    Put,
    TxnResult,
    WatchEvent,
    WatchNotice,
    key_value,
    prefix_end,
    txn_request,
    txn_result,
)

CALL_TIMEOUT_S = 5.0
"""Per request; reads are repeated within it, writes are sent once."""
PREFIX_PAGE = 500
PREFIX_TRIES = 5
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0


class EtcdClient:
    """One per process and event loop is enough. Use as `async with EtcdClient(settings) as client:`.

    Every call raises LogUnavailable if etcd does not answer (a write's outcome is then unknown) and EtcdRefused if it
    refuses. Reads are linearizable.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        self.settings = settings
        self._connection = EtcdConnection(settings)
        self._txn_call = _CallOf(lambda channel: rpc_pb2_grpc.KVStub(channel).Txn)
        self._range_call = _CallOf(lambda channel: rpc_pb2_grpc.KVStub(channel).Range)

    async def open(self) -> None:
        """Connect, log in, and see that it answers."""
        await self._connection.open()
        await self.revision()

    async def close(self) -> None:
        await self._connection.close()

    async def __aenter__(self) -> "EtcdClient":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- single keys

    async def get(self, key: str) -> KeyValue | None:
        response = await self._read(rpc_pb2.RangeRequest(key=key.encode()))
        return key_value(response.kvs[0]) if response.kvs else None

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write unconditionally; returns the key's new mod_revision."""
        return (await self.txn(then=[Put(key, value, lease)])).revision

    async def put_if_absent(self, key: str, value: bytes, *, lease: int = 0) -> bool:
        """Create the key; False, and nothing written, if it exists."""
        return await self.compare_and_put(key, value, mod_revision=0, lease=lease)

    async def compare_and_put(self, key: str, value: bytes, *, mod_revision: int, lease: int = 0) -> bool:
        """Write if the key is still at `mod_revision` (0: absent); False, and nothing written, if not."""
        return (await self.txn(when=[ModRevisionIs(key, mod_revision)], then=[Put(key, value, lease)])).succeeded

    async def delete(self, key: str) -> bool:
        """Delete; False if there was no such key."""
        return await self._delete(rpc_pb2.DeleteRangeRequest(key=key.encode())) > 0

    async def txn(
        self,
        *,
        when: Sequence[Condition] = (),
        then: Sequence[Operation] = (),
        otherwise: Sequence[Operation] = (),
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> TxnResult:
        """`then` if every condition of `when` holds, else `otherwise`; atomically, sent once."""
        request = txn_request(when, then, otherwise)
        return txn_result(await self._write(self._txn_call, request, timeout_s))

    # -- ranges

    async def range(self, start: str, end: str, *, limit: int, keys_only: bool = False, revision: int = 0) -> Listing:
        """The first `limit` keys in [start, end), ascending. Keep `end` tight: etcd walks its index up to it."""
        return await self._range(start.encode(), end.encode(), limit, keys_only=keys_only, revision=revision)

    async def get_prefix(self, prefix: str) -> Listing:
        """Every key with this prefix, at one revision, read in pages of 500.

        Raises LogUnavailable also when that revision was compacted between two pages each time it was tried.
        """
        for _ in range(PREFIX_TRIES):
            try:
                return await self._pages(prefix.encode(), prefix_end(prefix))
            except Compacted:
                # The pages read so far are of a revision that is gone: only all of them anew are of one revision.
                continue
        raise LogUnavailable(f"keys under {prefix!r} were compacted {PREFIX_TRIES} times while listed; list again")

    async def _pages(self, start: bytes, end: bytes) -> Listing:
        revision = 0
        items: list[KeyValue] = []
        while True:
            page = await self._range(start, end, PREFIX_PAGE, revision=revision)
            items += page.items
            revision = revision or page.revision
            if len(page) < PREFIX_PAGE:
                return Listing(tuple(items), revision)
            start = items[-1].key.encode() + b"\0"
            failpoint("log.client.between-pages")

    # -- watching

    def watch_prefix(self, prefix: str, start_revision: int, *, puts_only: bool = False) -> AsyncIterator[WatchNotice]:
        """Changes from `start_revision` on, one notice per answer; first a notice with `created`.

        Raises Compacted, EtcdRefused, or LogUnavailable when the stream breaks or falls silent: list, then watch again.
        """
        return watch_range(
            self._connection, prefix.encode(), prefix_end(prefix), start_revision=start_revision, puts_only=puts_only
        )

    async def mirror_prefix(self, prefix: str) -> AsyncIterator[dict[str, KeyValue]]:
        """All keys with this prefix, now and again after every change, for ever; survives a silent etcd.

        Each dictionary is a new one and complete. Changes close together may come as one.
        """
        pause = RETRY_FIRST_S
        while True:
            try:
                listing = await self.get_prefix(prefix)
                state = {item.key: item for item in listing}
                yield dict(state)
                async for notice in self.watch_prefix(prefix, listing.revision + 1):
                    pause = RETRY_FIRST_S
                    if notice.events:
                        _apply(state, notice.events)
                        yield dict(state)
            except (LogUnavailable, Compacted):
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST_S)

    # -- leases

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease that ends `ttl_s` seconds after its last keepalive; returns its id."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        response = await self._lease_call(lambda channel: rpc_pb2_grpc.LeaseStub(channel).LeaseGrant, request)
        return int(response.ID)

    async def revoke_lease(self, lease: int) -> None:
        """End a lease now; its keys are deleted. Raises EtcdRefused if it is gone already."""
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        await self._lease_call(lambda channel: rpc_pb2_grpc.LeaseStub(channel).LeaseRevoke, request)

    async def keep_lease_alive(self, lease: int) -> int:
        """Renew once; the seconds it has now, 0 if it is gone."""
        return int((await self._lease_call(_keep_alive_once, rpc_pb2.LeaseKeepAliveRequest(ID=lease))).TTL)

    def lease(self, ttl_s: int) -> KeptLease:
        """A lease kept alive in the background: `async with client.lease(10) as lease: put(..., lease=lease.id)`."""
        return KeptLease(self, ttl_s)

    # -- the server

    async def revision(self) -> int:
        """The store's present revision."""
        # One absent key: the cheapest linearizable read there is.
        return int((await self._read(rpc_pb2.RangeRequest(key=b"\0", count_only=True))).header.revision)

    async def status(self) -> EtcdStatus:
        response = await self._connection.call(
            Purpose.READ,
            lambda channel: rpc_pb2_grpc.MaintenanceStub(channel).Status,
            rpc_pb2.StatusRequest(),
            CALL_TIMEOUT_S,
        )
        return EtcdStatus(
            response.version, response.dbSize, response.dbSizeInUse, response.leader, tuple(response.errors)
        )

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`: old versions and what watchers could replay, never a present key."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        await self._write(lambda channel: rpc_pb2_grpc.KVStub(channel).Compact, request, CALL_TIMEOUT_S)

    # -- calls

    async def _range(
        self, start: bytes, end: bytes, limit: int, *, keys_only: bool = False, revision: int = 0
    ) -> Listing:
        try:
            response = await self._read(
                rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, keys_only=keys_only, revision=revision)
            )
        except EtcdRefused as error:
            if revision and "compacted" in str(error):
                raise Compacted(f"revision {revision} was compacted: {error}; list again") from error
            raise
        return Listing(tuple(key_value(item) for item in response.kvs), response.header.revision)

    async def _delete(self, request: Any) -> int:
        method = lambda channel: rpc_pb2_grpc.KVStub(channel).DeleteRange  # noqa: E731
        return int((await self._write(method, request, CALL_TIMEOUT_S)).deleted)

    async def _write(self, method: Callable[[Any], Any], request: Any, timeout_s: float) -> Any:
        return await self._connection.call(Purpose.APPEND, method, request, timeout_s)

    async def _lease_call(self, method: Callable[[Any], Any], request: Any) -> Any:
        return await self._connection.call(Purpose.LEASE, method, request, CALL_TIMEOUT_S)

    async def _read(self, request: Any) -> Any:
        """Reads have no effect, so they alone are repeated here, until the call's time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_TIMEOUT_S
        pause = RETRY_FIRST_S
        while True:
            try:
                return await self._connection.call(
                    Purpose.READ,
                    self._range_call,
                    request,
                    max(RETRY_FIRST_S, deadline - loop.time()),
                )
            except LogUnavailable:
                if loop.time() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST_S)


class _CallOf:
    """A method of whichever channel is the present one: making its stub costs as much as sending a small request."""

    def __init__(self, method: Callable[[Any], Any]) -> None:
        self._method = method
        self._channel: Any = None
        self._call: Any = None

    def __call__(self, channel: Any) -> Any:
        if channel is not self._channel:
            self._channel, self._call = channel, self._method(channel)
        return self._call


def _apply(state: dict[str, KeyValue], events: Sequence[WatchEvent]) -> None:
    for event in events:
        if event.deleted:
            state.pop(event.item.key, None)
        else:
            state[event.item.key] = event.item


def _keep_alive_once(channel: Any) -> Any:
    """LeaseKeepAlive is a stream; one request and one answer of it make a call like the others."""

    async def call(request: Any, *, timeout: float, metadata: Any) -> Any:
        stream = rpc_pb2_grpc.LeaseStub(channel).LeaseKeepAlive(timeout=timeout, metadata=metadata)
        await stream.write(request)
        response = await stream.read()
        stream.cancel()
        return response

    return call
