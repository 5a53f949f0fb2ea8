"""Channels to etcd: mutual TLS, several endpoints, a channel of its own per purpose, a token kept fresh. No retries.

Knows gRPC and etcd's status codes; nothing of keys or of the log.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.log.errors import EtcdRefused, LogError, LogUnavailable

MAX_RECEIVE_BYTES = 128 << 20
"""A page is at most 256 batches of 256 KiB; etcd's Go server has no limit on what it sends."""
RETIRED_GRACE_S = 10.0
"""For calls on a channel that another's failure has retired; more than any call here may take."""
MAX_SEND_BYTES = 2 << 20
"""A little above what etcd takes, so that etcd's own, clearer error is the one seen."""


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where etcd is and how to be let in. Paths are of PEM files; `endpoints` are `host:port`.

    Without `ca_path` the connection is plain, for tests and for a network that is guarded otherwise.
    """

    endpoints: tuple[str, ...]
    ca_path: str | None = None
    cert_path: str | None = None
    key_path: str | None = None
    username: str | None = None
    password_file: str | None = None
    namespace: str = "rayfold"


class Purpose(Enum):
    """Each has its own connection: a long watch or a big page must not delay an append or a keepalive."""

    APPEND = "append"
    READ = "read"
    WATCH = "watch"
    LEASE = "lease"


_OPTIONS: list[tuple[str, int]] = [
    # A library that resends a write by itself would answer for an outcome it does not know: writer and reader decide.
    ("grpc.enable_retries", 0),
    # Without it channels to one target share a connection, and with it their flow control.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    # etcd closes connections that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted etcd should be found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


CLOSED_UNDER_A_CALL = "the connection to etcd was closed while a call waited for its answer; try again"


def caller_is_cancelled() -> bool:
    """Whether a CancelledError was meant for this task: gRPC raises one also when a channel is closed under a call.

    Let through, that one would end whichever task waits for the call as if somebody had cancelled it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class EtcdConnection:
    """Sends requests; every error comes out as EtcdRefused (not applied) or LogUnavailable (outcome unknown)."""

    def __init__(self, settings: EtcdSettings) -> None:
        if not settings.endpoints:
            raise ValueError("expected at least one etcd endpoint, found none; give host:port")
        self.settings = settings
        self._credentials: grpc.ChannelCredentials | None = None
        self._password = ""
        self._channels: dict[Purpose, tuple[str, grpc.aio.Channel]] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._turn: dict[Purpose, int] = {}
        self._token: str | None = None
        self._token_lock = asyncio.Lock()

    async def open(self) -> None:
        """Read key files, log in if a user is set."""
        await asyncio.to_thread(self._read_files)
        if self.settings.username is not None:
            await self._log_in(stale=None)

    async def close(self) -> None:
        channels = [channel for _, channel in self._channels.values()]
        self._channels.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels), *self._retired)

    def channel(self, purpose: Purpose) -> grpc.aio.Channel:
        """The purpose's present channel."""
        if purpose not in self._channels:
            endpoints = self.settings.endpoints
            endpoint = endpoints[self._turn.get(purpose, 0) % len(endpoints)]
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(endpoint, self._credentials, options=_OPTIONS)
            self._channels[purpose] = (endpoint, channel)
        return self._channels[purpose][1]

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: etcd refuses streams of a member that lost its leader only when asked to."""
        token = () if self._token is None else (("token", self._token),)
        return (("hasleader", "true"), *token)

    async def call(
        self, purpose: Purpose, method: Callable[[grpc.aio.Channel], Any], request: Any, timeout_s: float
    ) -> Any:
        """One request, one answer, sent once; again only if its token was stale, which etcd refuses before all else."""
        token = self._token
        channel = self.channel(purpose)
        try:
            return await self._send(channel, method, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED or self.settings.username is None:
                raise self.translate(error, purpose, channel) from error
        await self._log_in(stale=token)
        channel = self.channel(purpose)
        try:
            return await self._send(channel, method, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self.translate(error, purpose, channel) from error

    def translate(self, error: grpc.aio.AioRpcError, purpose: Purpose, channel: grpc.aio.Channel) -> LogError:
        """The error to raise instead, of a call on `channel`; after a silent endpoint the next one gets its turn."""
        endpoint = self._channels[purpose][0] if purpose in self._channels else "etcd"
        details = error.details() or "no details"
        if error.code() in _REFUSALS:
            return EtcdRefused(f"etcd at {endpoint} refused: {error.code().name}: {details}")
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self.leave(purpose, channel)
        return LogUnavailable(f"etcd at {endpoint} did not answer: {error.code().name}: {details}; is it running?")

    async def refresh_login(self) -> None:
        """Get a new token, for a stream that was refused with the old one."""
        if self.settings.username is not None:
            await self._log_in(stale=self._token)

    async def _send(
        self, channel: grpc.aio.Channel, method: Callable[[grpc.aio.Channel], Any], request: Any, timeout_s: float
    ) -> Any:
        try:
            return await method(channel)(request, timeout=timeout_s, metadata=self.metadata())
        except asyncio.CancelledError as error:
            if caller_is_cancelled():
                raise
            raise LogUnavailable(CLOSED_UNDER_A_CALL) from error

    def leave(self, purpose: Purpose, channel: grpc.aio.Channel) -> None:
        """`channel` fell silent: the next endpoint gets its turn, unless it got it on another call's word already."""
        if len(self.settings.endpoints) == 1 or self._channels.get(purpose, ("", None))[1] is not channel:
            return
        self._turn[purpose] = self._turn.get(purpose, 0) + 1
        del self._channels[purpose]
        # Others may still be waiting on it; they get until the grace is over.
        task = asyncio.create_task(channel.close(grace=RETIRED_GRACE_S))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _log_in(self, stale: str | None) -> None:
        async with self._token_lock:
            if self._token != stale:
                return
            request = rpc_pb2.AuthenticateRequest(name=self.settings.username, password=self._password)
            channel = self.channel(Purpose.READ)
            try:
                self._token = (await rpc_pb2_grpc.AuthStub(channel).Authenticate(request, timeout=5.0)).token
            except grpc.aio.AioRpcError as error:
                raise self.translate(error, Purpose.READ, channel) from error

    def _read_files(self) -> None:
        settings = self.settings
        if settings.ca_path is not None:
            self._credentials = grpc.ssl_channel_credentials(
                Path(settings.ca_path).read_bytes(),
                None if settings.key_path is None else Path(settings.key_path).read_bytes(),
                None if settings.cert_path is None else Path(settings.cert_path).read_bytes(),
            )
        if settings.password_file is not None:
            self._password = Path(settings.password_file).read_text().strip()
