"""The etcd model as a process meets it: gRPC channels that delay, lose and repeat, watches that break or fall silent.

The client, its connection and its watch are production code; only gRPC is replaced. Knows nothing of the log.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
from aetcd.rpc import rpc_pb2

from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdConnection, EtcdSettings, Purpose
from events.log.etcd_members import EtcdMembers
from tests.simulation.etcd_model import Change, EtcdError, EtcdModel
from tests.simulation.world import Process, World

SETTINGS = EtcdSettings(endpoints=("simulated:1",), namespace="sim")
_WATCH, _KEEP_ALIVE = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"


class Weather(msgspec.Struct, kw_only=True):
    """How bad the network is: shares of calls, from 0 to 1. All zero is a network that only takes its time."""

    slow_s: float = 0.003
    lost_request: float = 0.0
    lost_reply: float = 0.0
    delayed: float = 0.0
    """Arrives up to 20 s later, long after its client has sent it again."""
    repeated: float = 0.0
    """Arrives twice, the second time up to 20 s later."""
    missed: float = 0.0
    """A change that a watch never tells, as some releases of etcd do."""
    split: float = 0.3
    """A watch's answer that comes in fragments."""


class SimulatedServer:
    """One etcd and the network before it. `down` answers nothing; watches end with `break_watches`."""

    def __init__(self, world: World, model: EtcdModel, weather: Weather) -> None:
        self.world = world
        self.model = model
        self.weather = weather
        self.down = False
        self.watches: list[Watch] = []
        self.calls = 0

    def client(self, process: Process) -> EtcdClient:
        """A client for this process: production code on simulated channels."""
        client = EtcdClient(SETTINGS)
        client._connection = _Connection(SETTINGS, _Channel(self, process))
        return client

    def members(self, process: Process) -> EtcdMembers:
        """The one member, for this process."""
        members = EtcdMembers(SETTINGS)
        members._members = dict.fromkeys(SETTINGS.endpoints, _Connection(SETTINGS, _Channel(self, process)))
        return members

    def latency(self) -> float:
        chance = self.world.chance.random()
        # Most calls take about as long as the next, one in fifty ten times as long.
        return self.weather.slow_s * (0.2 + chance) * (10.0 if chance > 0.98 else 1.0)

    def apply(self, process: Process, request: Any) -> Any:
        """One request arrives. Raises EtcdError."""
        before = self.model.revision
        try:
            answer = self.model.apply(request, self.world.now)
        finally:
            if self.world.tracing:
                kind = type(request).__name__
                self.world.note(f"{process.name} {kind} {request.ByteSize()} revision {before}->{self.model.revision}")
            if self.model.revision > before:
                self.tell_watches()
        return answer

    def expire_leases(self) -> None:
        """Also when nobody asks for anything."""
        before = self.model.revision
        self.model.expire(self.world.now)
        if self.model.revision > before:
            self.tell_watches()

    def tell_watches(self) -> None:
        for watch in self.watches:
            watch.tell_soon()

    def break_watches(self) -> None:
        for watch in self.watches:
            watch.stream.fail(grpc.StatusCode.UNAVAILABLE, "the connection was cut")
        self.watches.clear()

    def silence_watches(self) -> None:
        """They say nothing any more, and their clients see no connection end."""
        self.watches.clear()

    # -- one call

    async def call(self, process: Process, request: Any, timeout_s: float) -> Any:
        """Send, wait for the answer. Raises grpc.aio.AioRpcError as gRPC would."""
        self.calls += 1
        reply = process.create_future()
        chance, weather, world = self.world.chance, self.weather, self.world
        fate = chance.random()
        arrives_in = self.latency()
        if fate < weather.lost_request:
            world.note(f"{process.name} {type(request).__name__} is lost")
        elif (fate := fate - weather.lost_request) < weather.lost_reply:
            world.note(f"{process.name} {type(request).__name__}: its reply is lost")
            world.after(arrives_in, lambda: self._arrive(process, request, None))
        elif (fate := fate - weather.lost_reply) < weather.delayed:
            world.note(f"{process.name} {type(request).__name__} is late")
            world.after(chance.random() * 20.0, lambda: self._arrive(process, request, reply))
        else:
            world.after(arrives_in, lambda: self._arrive(process, request, reply))
            if (fate := fate - weather.delayed) < weather.repeated:
                world.note(f"{process.name} {type(request).__name__} will come twice")
                world.after(chance.random() ** 2 * 20.0, lambda: self._arrive(process, request, None))
        timer = process.call_later(timeout_s, _give_up, reply)
        try:
            return await reply
        finally:
            timer.cancel()

    def _arrive(self, process: Process, request: Any, reply: Any) -> None:
        if self.down:
            error = EtcdError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
            self.world.after(self.latency(), lambda: _answer(process, reply, None, error))
            return
        try:
            answer, failure = self.apply(process, request), None
        except EtcdError as error:
            answer, failure = None, error
        self.world.after(self.latency(), lambda: _answer(process, reply, answer, failure))


def _give_up(reply: Any) -> None:
    if not reply.done():
        reply.set_exception(_rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))


def _answer(process: Process, reply: Any, answer: Any, error: EtcdError | None) -> None:
    """The reply reaches the process, which may be paused, dead, or not waiting any more."""
    if reply is None:
        return

    def settle() -> None:
        if reply.done():
            return
        if error is None:
            reply.set_result(answer)
        else:
            reply.set_exception(_rpc_error(error.code, error.details))

    process.call_soon(settle)


def _rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


class Stream:
    """A stream's client side: `write`, `read`, `cancel`, as grpc.aio has them."""

    def __init__(self, server: SimulatedServer, process: Process, receive: Callable[["Stream", Any], None]) -> None:
        self._server = server
        self.process = process
        self._receive = receive
        self._answers: deque[Any] = deque()
        self._waiting: Any = None
        self._failure: grpc.aio.AioRpcError | None = None
        self._last_delivery = 0.0
        self.cancelled = False

    async def write(self, request: Any) -> None:
        if self._failure is not None:
            raise self._failure
        # In order, and never two at once: a stream's requests do not overtake one another.
        await _pause(self.process, self._server.latency())
        if not self._server.down:
            self._receive(self, request)
        else:
            self.fail(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")

    async def read(self) -> Any:
        while not self._answers:
            if self._failure is not None:
                raise self._failure
            self._waiting = self.process.create_future()
            await self._waiting
        return self._answers.popleft()

    def cancel(self) -> None:
        self.cancelled = True
        self._server.watches = [watch for watch in self._server.watches if watch.stream is not self]

    def send(self, answer: Any) -> None:
        """From the server; arrives later, but in order."""
        at = max(self._last_delivery, self._server.world.now + self._server.latency())
        self._last_delivery = at
        self._server.world.at(at, lambda: self.process.call_soon(self._arrive, answer, None))

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        at = max(self._last_delivery, self._server.world.now)
        self._server.world.at(at, lambda: self.process.call_soon(self._arrive, None, _rpc_error(code, details)))

    def _arrive(self, answer: Any, error: grpc.aio.AioRpcError | None) -> None:
        if error is not None:
            self._failure = error
        elif self._failure is None:
            self._answers.append(answer)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


async def _pause(process: Process, seconds: float) -> None:
    done = process.create_future()
    timer = process.call_later(seconds, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()


class Watch:
    """One watch on the server's side. It catches up from the history and then tells what is new, in order."""

    def __init__(self, server: SimulatedServer, stream: Stream, request: Any) -> None:
        self.server = server
        self.stream = stream
        self._start, self._end = request.key, request.range_end
        self._puts_only = rpc_pb2.WatchCreateRequest.NODELETE in request.filters
        self._fragment = request.fragment
        self.next_revision = request.start_revision or server.model.revision + 1
        self._telling = False

    def tell_soon(self) -> None:
        """What changes meanwhile is told with it."""
        if not self._telling:
            self._telling = True
            self.server.world.after(self.server.latency(), self._tell)

    def _tell(self) -> None:
        self._telling = False
        if self in self.server.watches:
            self.flush()

    def flush(self) -> None:
        model = self.server.model
        if self.next_revision < model.compacted:
            cancelled = rpc_pb2.WatchResponse(
                header=model.header(), canceled=True, compact_revision=model.compacted,
                cancel_reason="etcdserver: mvcc: required revision has been compacted",
            )  # fmt: skip
            self.stream.send(cancelled)
            self.server.watches.remove(self)
            return
        fresh = model.changes[max(0, self.next_revision - 2) :]
        self.next_revision = max(self.next_revision, model.revision + 1)
        events = [change.message() for changes in fresh for change in changes if self._wants(change)]
        if events:
            self._send(events)

    def progress(self) -> None:
        self.flush()
        self.stream.send(rpc_pb2.WatchResponse(header=self.server.model.header(), watch_id=-1))

    def _wants(self, change: Change) -> bool:
        if not self._start <= change.item.key < self._end or (change.deleted and self._puts_only):
            return False
        missed = self.server.weather.missed
        return not (missed and self.server.world.chance.random() < missed)

    def _send(self, events: list[Any]) -> None:
        chance, header = self.server.world.chance, self.server.model.header()
        while self._fragment and len(events) > 1 and chance.random() < self.server.weather.split:
            cut = 1 + int(chance.random() * (len(events) - 1))
            self.stream.send(rpc_pb2.WatchResponse(header=header, events=events[:cut], fragment=True))
            events = events[cut:]
        self.stream.send(rpc_pb2.WatchResponse(header=header, events=events))


class _Channel:
    """What generated stubs ask of a channel."""

    def __init__(self, server: SimulatedServer, process: Process) -> None:
        self._server = server
        self._process = process

    def unary_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[..., Any]:
        async def call(request: Any, *, timeout: float, metadata: Any = None) -> Any:
            return await self._server.call(self._process, request, timeout)

        return call

    def unary_stream(self, path: str, **_: Any) -> Callable[..., Any]:
        raise_on_use: Callable[..., Any] = lambda *a, **k: _unknown(path)  # noqa: E731
        return raise_on_use

    stream_unary = unary_stream

    def stream_stream(self, path: str, **_: Any) -> Callable[..., Any]:
        if path == _WATCH:
            return lambda **_: Stream(self._server, self._process, self._on_watch)
        if path == _KEEP_ALIVE:
            return lambda timeout=None, **_: _KeepAlive(self._server, self._process, timeout)
        return lambda *a, **k: _unknown(path)

    def _on_watch(self, stream: Stream, request: Any) -> None:
        """A request arrives on a watch's stream."""
        if stream.cancelled:
            return
        if request.WhichOneof("request_union") == "create_request":
            watch = Watch(self._server, stream, request.create_request)
            self._server.watches.append(watch)
            stream.send(rpc_pb2.WatchResponse(header=self._server.model.header(), created=True))
            watch.tell_soon()
            return
        for watch in self._server.watches:
            if watch.stream is stream:
                watch.progress()


class _KeepAlive:
    """A stream of one request and one answer."""

    def __init__(self, server: SimulatedServer, process: Process, timeout_s: float) -> None:
        self._server = server
        self._process = process
        self._timeout_s = timeout_s
        self._request: Any = None

    async def write(self, request: Any) -> None:
        self._request = request

    async def read(self) -> Any:
        return await self._server.call(self._process, self._request, self._timeout_s)

    def cancel(self) -> None:
        pass


def _unknown(path: str) -> Any:
    raise AssertionError(f"the simulated etcd does not serve {path}: teach it")


class _Connection(EtcdConnection):
    """Production's connection on a simulated channel."""

    def __init__(self, settings: EtcdSettings, channel: _Channel) -> None:
        super().__init__(settings)
        self._simulated = channel

    def channel(self, purpose: Purpose) -> Any:
        return self._simulated
