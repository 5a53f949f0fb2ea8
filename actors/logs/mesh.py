"""The members of the pool among themselves, over ZeroMQ: who lives, how busy each is, who has which stream, requests.

Sockets are unix sockets in the platform's own directory, which no application can enter; that is the authentication.
Knows messages; nothing of what a request means or where a stream belongs.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from actors.logs import protocol
from actors.logs.background import Background
from actors.logs.errors import Unreachable
from actors.logs.protocol import Refused, Reply, Request

_log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
SILENT_SECONDS = 5.0
"""A member that says nothing for this long is taken for dead: what it had may be claimed. Wrong only costs a claim."""
_GREET_SECONDS = 1.5
_KNOWN_STREAMS = 100_000
_REQUESTS_AT_ONCE = 256
_ID_BYTES = 8

Serve = Callable[[Request], Awaitable[Reply]]


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag="beat"):
    """Said by every member twice a second. `load`: bytes a second it stores; `address`: of its TCP server; `teams`:
    bytes a second that teams with a rate send it."""

    member: str
    address: str
    load: float
    teams: dict[str, float] = {}


class Has(msgspec.Struct, frozen=True, kw_only=True, tag="has"):
    """`member` has claimed `stream` or is to."""

    stream: str
    member: str


class Leaving(msgspec.Struct, frozen=True, kw_only=True, tag="leaving"):
    """`member` stops of its own will: nobody needs to wait until it is silent."""

    member: str


class Peer(msgspec.Struct, kw_only=True):
    """Another member, as last heard of."""

    beat: Beat
    heard: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Beat | Has | Leaving).decode


class Mesh:
    """One member's end. `load` and `teams` say how busy it is, `serve` answers what another member asks."""

    def __init__(
        self,
        member: str,
        directory: Path,
        *,
        load: Callable[[], float],
        teams: Callable[[], dict[str, float]],
        serve: Serve,
    ) -> None:
        self.member = member
        self._directory = directory
        self._load = load
        self._teams = teams
        self._serve = serve
        self._address = ""
        self._peers: dict[str, Peer] = {}
        self._known: OrderedDict[str, str] = OrderedDict()
        self._subscribed: set[str] = set()
        self._asking: dict[str, zmq.asyncio.Socket] = {}
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._next_id = 0
        self._tasks = Background("log mesh")
        self._slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._heard = asyncio.Condition()
        self._context = zmq.asyncio.Context()

    async def start(self, address: str) -> None:
        """Be found; returns once those that were there already have been heard, or do not answer."""
        self._address = address
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._out = self._socket(zmq.PUB)
        self._out.bind(self._url(self.member, "pub"))
        self._in = self._socket(zmq.SUB)
        self._in.subscribe(b"")
        self._answers = self._socket(zmq.ROUTER)
        self._answers.bind(self._url(self.member, "req"))
        self._tasks.start(self._hear())
        self._tasks.start(self._answer_all())
        self._tasks.start(self._beats())
        there = self._names() - {self.member}
        try:
            async with asyncio.timeout(_GREET_SECONDS), self._heard:
                await self._heard.wait_for(lambda: there <= self._peers.keys())
        except TimeoutError:
            _log.info("log mesh: %s did not answer", ", ".join(sorted(there - self._peers.keys())))

    async def aclose(self) -> None:
        """Say goodbye."""
        self._out.send(_encode(Leaving(member=self.member)))
        for kind in ("pub", "req"):
            self._path(self.member, kind).unlink(missing_ok=True)
        await self._tasks.aclose()
        for socket in (self._out, self._in, self._answers, *self._asking.values()):
            socket.close(linger=200)
        self._context.term()

    def check(self) -> None:
        """Raise RuntimeError when a task has died."""
        self._tasks.check()

    def loads(self) -> dict[str, float]:
        """Bytes a second of every member that lives, this one among them."""
        return {**{beat.member: beat.load for beat in self._others()}, self.member: self._load()}

    def elsewhere(self, team: str) -> list[float]:
        """Bytes a second of the team at each other member that lives and has any of it."""
        return [rate for beat in self._others() if (rate := beat.teams.get(team, 0.0))]

    def address_of(self, member: str) -> str:
        """Where its TCP server listens; empty when it is not known to live."""
        peer = self._peers.get(member)
        return peer.beat.address if peer is not None and member in self.loads() else ""

    def owner_of(self, stream: str) -> str | None:
        """Who said last that it has the stream, if it lives."""
        member = self._known.get(stream)
        return member if member in self.loads() else None

    async def tell(self, stream: str, member: str) -> None:
        """Let everyone know who has a stream."""
        self._learn(stream, member)
        await self._out.send(_encode(Has(stream=stream, member=member)))

    async def ask(self, member: str, request: Request, seconds: float) -> Reply:
        """What `member` answers. Raises Unreachable."""
        socket = self._asking.get(member)
        if socket is None:
            socket = self._asking[member] = self._socket(zmq.DEALER)
            socket.connect(self._url(member, "req"))
            self._tasks.start(self._take_answers(socket))
        self._next_id += 1
        number = self._next_id.to_bytes(_ID_BYTES, "big")
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await socket.send(number + protocol.encode(request))
                reply: Reply = protocol.decode_reply((await future)[4:])
                return reply
        except TimeoutError as error:
            raise Unreachable(f"log server {member} did not answer another's request in {seconds} s") from error
        finally:
            del self._waiting[number]

    def _others(self) -> list[Beat]:
        since = time.monotonic() - SILENT_SECONDS
        return [peer.beat for peer in self._peers.values() if peer.heard >= since]

    def _socket(self, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        # What cannot be sent at once to a member that is not there is refused rather than kept for it.
        socket.setsockopt(zmq.IMMEDIATE, kind == zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_ANSWER + _ID_BYTES + 4)
        return socket

    def _path(self, member: str, kind: str) -> Path:
        return self._directory / f"{member}.{kind}"

    def _url(self, member: str, kind: str) -> str:
        return f"ipc://{self._path(member, kind)}"

    def _names(self) -> set[str]:
        return {path.stem for path in self._directory.glob("*.pub")}

    async def _beats(self) -> None:
        while True:
            for name in await asyncio.to_thread(self._names):
                if name not in self._subscribed and name != self.member:
                    self._subscribed.add(name)
                    self._in.connect(self._url(name, "pub"))
            beat = Beat(member=self.member, address=self._address, load=self._load(), teams=self._teams())
            await self._out.send(_encode(beat))
            await asyncio.sleep(BEAT_SECONDS)

    async def _hear(self) -> None:
        while True:
            match _decode(await self._in.recv()):
                case Beat(member=member) as beat:
                    self._peers[member] = Peer(beat=beat, heard=time.monotonic())
                    async with self._heard:
                        self._heard.notify_all()
                case Has(stream=stream, member=member):
                    self._learn(stream, member)
                case Leaving(member=member):
                    self._peers.pop(member, None)

    def _learn(self, stream: str, member: str) -> None:
        self._known[stream] = member
        self._known.move_to_end(stream)
        while len(self._known) > _KNOWN_STREAMS:
            self._known.popitem(last=False)

    async def _answer_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._slots.acquire()
                who, message = await self._answers.recv_multipart()
                tasks.create_task(self._answer(who, message))

    async def _answer(self, who: bytes, message: bytes) -> None:
        number, body = message[:_ID_BYTES], message[_ID_BYTES + 4 :]
        try:
            reply = await self._serve(protocol.decode_request(body))
        except msgspec.MsgspecError as error:
            reply = Refused(id=0, code="protocol-broken", message=str(error))
        finally:
            self._slots.release()
        await self._answers.send_multipart([who, number + protocol.encode(reply)])

    async def _take_answers(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            message = await socket.recv()
            future = self._waiting.get(message[:_ID_BYTES])
            if future is not None and not future.done():
                future.set_result(message[_ID_BYTES:])
