"""The log server: takes batches and answers queries and tails over TCP, for whoever shows the token.

Knows the protocol and the store, nothing of Ray or of who runs where.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import msgspec

from actors.logs import protocol, relay
from actors.logs.background import Background
from actors.logs.errors import AccessRefused, LogError, ProtocolBroken
from actors.logs.line import Batch, check_stream_name
from actors.logs.mesh import Mesh
from actors.logs.policy import Policies
from actors.logs.pool import HALF_LIFE_SECONDS, PoolMember
from actors.logs.protocol import (
    Append,
    Ask,
    AskStats,
    AskTotals,
    Close,
    Done,
    Hello,
    More,
    Refused,
    Reply,
    Request,
    Tail,
    Welcome,
    Where,
    refusal,
)
from actors.logs.query import answer, follow, stats
from actors.logs.rates import Rates
from actors.logs.search import Searcher
from actors.logs.shares import Shares, allowed_here
from actors.logs.store import PENDING_BYTES, LogStore
from actors.logs.totals import StoreTotals
from actors.logs.turns import Turns
from actors.logs.view import Appended

_log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
STALL_SECONDS = 300.0
"""A reader that takes nothing for this long is cut; it resumes by number."""
LEARN_SECONDS = 2.0
MAX_CONNECTIONS = 2_000
_SEND_BUFFER = 256 * 1024


class ServerStats(msgspec.Struct, kw_only=True):
    """Counters since start, and what is open now."""

    connections: int = 0
    tails: int = 0
    refused_tokens: int = 0
    broken: int = 0
    queries: int = 0


class EventlogServer:
    """Serves `store` on `host`:`port` (0: any free one). The store is started and closed by whoever made it.

    `port_file`, when given, holds `host:port` while the server runs, for clients that look it up at each connect.
    `policies` say how fast each team may be. `member` and `mesh_directory`: the server is one of a pool whose members
    meet there and share the store's directory.
    """

    def __init__(
        self,
        store: LogStore,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        port_file: Path | None = None,
        member: str = "",
        mesh_directory: Path | None = None,
        policies: Policies | None = None,
    ) -> None:
        if len(token) < 16:
            raise AccessRefused("expected a token of at least 16 characters; remove tokens/logs and start again")
        self.stats = ServerStats()
        self.store = store
        self.searcher = Searcher()
        self.turns = Turns()
        self.totals: Callable[[], StoreTotals] | None = None
        """What is told of the store's counts; set by whoever keeps them."""
        self.rates = Rates(HALF_LIFE_SECONDS)
        self.shares = Shares(PENDING_BYTES)
        self.pool: PoolMember | None = None
        self.mesh: Mesh | None = None
        if mesh_directory is not None:
            load, teams = self.rates.total, self.shares.rates
            self.mesh = Mesh(member, mesh_directory, load=load, teams=teams, serve=self._serve_member)
            self.pool = PoolMember(store, self.mesh, self.rates)
        self._policies = policies
        self.learn: Callable[[], Coroutine[None, None, None]] | None = None
        """Makes `policies` know what there is; set by whoever can."""
        self._learning = asyncio.Lock()
        self._nobodys: OrderedDict[str, None] = OrderedDict()
        self._token = token
        self._host = host
        self._port = port
        self._port_file = port_file
        self._server: asyncio.Server | None = None
        self._connections = Background("log server")

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when it is taken."""
        self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=1024 * 1024, backlog=512)
        self._port = int(self._server.sockets[0].getsockname()[1])
        if self.mesh is not None and self.pool is not None:
            await self.mesh.start(f"{self._host}:{self._port}")
            self._connections.start(self.pool.run())
        if self._port_file is not None:
            await asyncio.to_thread(_replace, self._port_file, f"{self._host}:{self._port}\n")
        return self._port

    async def aclose(self) -> None:
        """Stop listening and cut the connections; what was acknowledged is stored, clients send the rest again."""
        if self._server is not None:
            self._server.close()
        if self._port_file is not None and self.mesh is not None:
            await asyncio.to_thread(self._port_file.unlink, missing_ok=True)
        await self._connections.aclose()
        if self.mesh is not None:
            await self.mesh.aclose()
        await self.searcher.aclose()

    def check(self) -> None:
        """Raise RuntimeError when a task that must not end has ended; the owner should end the process."""
        self._connections.check()
        if self.mesh is not None:
            self.mesh.check()

    async def know(self, stream: str) -> None:
        """Ask whose a stream is before its first line is stored, so that its masks hold for that one too.

        While nobody can be asked, or does not know, lines are stored as nobody's.
        """
        if self._policies is None or self.learn is None or self._policies.knows(stream) or stream in self._nobodys:
            return
        async with self._learning:
            if self._policies.knows(stream) or stream in self._nobodys:
                return
            self._nobodys[stream] = None  # asked for once; whoever learns in the background goes on asking
            while len(self._nobodys) > MAX_CONNECTIONS:
                self._nobodys.popitem(last=False)
            try:
                async with asyncio.timeout(LEARN_SECONDS):
                    await self.learn()
            except TimeoutError:
                _log.warning("log server: whose stream %s is could not be told in %.0f s", stream, LEARN_SECONDS)

    def share_of(self, stream: str) -> tuple[str, float]:
        """Whose stream it is, and how many bytes a second all its team's may have here; 0: no limit."""
        if self._policies is None:
            return "", 0.0
        policy = self._policies.of(stream)
        elsewhere = self.mesh.elsewhere(policy.team) if self.mesh is not None else []
        return policy.team, allowed_here(policy.bytes_per_second, elsewhere)

    async def must_be_here(self, stream: str) -> None:
        """Raises StreamMoved where another member of the pool has the stream, StorageFailed."""
        if self.pool is not None:
            await self.pool.must_be_here(check_stream_name(stream))

    async def append(self, stream: str, batch: Batch) -> Appended:
        """Store a batch that nobody can hold back. Raises LogError."""
        await self.must_be_here(stream)
        await self.know(stream)
        return await self.store.append(stream, batch)

    async def answer(self, request: Request) -> Reply:
        """The answer to what is no tail and needs no order, from this member's own streams. Raises LogError."""
        match request:
            case Append(id=number, stream=stream, batch=batch):
                return Done(id=number, appended=await self.append(stream, batch))
            case Close(id=number, stream=stream, outcome=outcome, at=at):
                await self.must_be_here(stream)
                await self.store.close_stream(stream, outcome[:40], at)
                return Done(id=number)
            case Where(id=number, stream=stream, source_id=source_id):
                await self.must_be_here(stream)
                return Done(id=number, position=await self.store.position(stream, source_id))
            case Ask(id=number, query=query):
                self.stats.queries += 1
                async with self.turns.turn(query.team):
                    return Done(id=number, result=await answer(self.store, self.searcher, query))
            case AskStats(id=number, stream=stream, since=since, until=until):
                self.stats.queries += 1
                async with self.turns.turn(request.team):
                    return Done(id=number, stats=await stats(self.store, self.searcher, stream, since, until))
            case AskTotals(id=number):
                return Done(id=number, totals=self.totals() if self.totals else StoreTotals())
            case _:
                raise ProtocolBroken("expected one hello, found another")

    async def _serve_member(self, request: Request) -> Reply:
        """What another member asks on behalf of its client."""
        try:
            if not isinstance(request, Tail | Ask | AskStats):
                return await self.answer(request)
            stream = request.query.stream if isinstance(request, Ask) else request.stream
            await self.must_be_here(stream)
            if not isinstance(request, Tail):
                return await self.answer(request)
            async for piece in follow(self.store, self.searcher, stream, request.from_number, request.filter):
                return More(id=request.id, piece=piece)
            raise ProtocolBroken("expected a tail to say something, found its end")
        except LogError as error:
            return refusal(getattr(request, "id", 0), error)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.stats.connections >= MAX_CONNECTIONS:
            writer.close()
            return
        self.stats.connections += 1
        writer.transport.set_write_buffer_limits(high=_SEND_BUFFER)
        self._connections.start(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._admit(reader, writer):
                await _Connection(self, reader, writer).run()
        except* (ConnectionError, TimeoutError):
            pass  # the client has gone or stands still; what it has no answer to, it asks again
        except* (ProtocolBroken, msgspec.MsgspecError) as group:
            self.stats.broken += 1
            _log.warning("log server: connection closed: %s", group.exceptions[0])
        finally:
            self.stats.connections -= 1
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with asyncio.timeout(HELLO_SECONDS):
            frame = await protocol.read_frame(reader, protocol.HELLO_BYTES)
        if frame is None:
            return False
        try:
            hello = protocol.decode_request(frame)
        except msgspec.MsgspecError:
            hello = None
        if not isinstance(hello, Hello) or not protocol.same_token(hello.token, self._token):
            self.stats.refused_tokens += 1
            refusal = Refused(id=0, code=AccessRefused.code, message="expected this node's log token, found another")
            await _send(writer, refusal)
            return False
        if hello.version != protocol.VERSION:
            raise ProtocolBroken(f"expected protocol version {protocol.VERSION}, found {hello.version}")
        await _send(writer, Welcome())
        return True


class _Connection:
    """One admitted client. Appends keep their order; queries run beside them; a tail takes the connection over."""

    def __init__(self, server: EventlogServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._queries: set[asyncio.Task[None]] = set()
        self._unacknowledged = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client goes."""
        async with asyncio.TaskGroup() as tasks:
            while (frame := await protocol.read_frame(self._reader, protocol.MAX_FRAME)) is not None:
                await self._handle(protocol.decode_request(frame), tasks)
            # Nobody waits for these answers any more; appends go on, for their lines were taken.
            for query in self._queries:
                query.cancel()

    async def _handle(self, request: Request, tasks: asyncio.TaskGroup) -> None:
        match request:
            case Append(id=number, stream=stream, batch=batch):
                await self._append(number, stream, batch, tasks)
            case Ask(id=number) | AskStats(id=number):
                self._asked(tasks.create_task(self._answer(number, relay.ask(self._server, request))))
            case AskTotals(id=number):
                self._asked(tasks.create_task(self._answer(number, relay.totals(self._server, request))))
            case Close(id=number) | Where(id=number):
                tasks.create_task(self._answer(number, self._server.answer(request)))
            case Tail():
                await self._tail(request)
            case _:
                raise ProtocolBroken("expected one hello, found another")

    def _asked(self, query: "asyncio.Task[None]") -> None:
        self._queries.add(query)
        query.add_done_callback(self._queries.discard)

    async def _append(self, number: int, stream: str, batch: Batch, tasks: asyncio.TaskGroup) -> None:
        while self._unacknowledged > protocol.WINDOW_BYTES:
            self._room.clear()
            await self._room.wait()
        size, server = len(batch.blob), self._server
        try:
            await server.must_be_here(stream)
            await server.know(stream)
            team, per_second = server.share_of(stream)
            # Only what an application prints can wait where it is printed.
            must = batch.origin is None or batch.origin.source != "app"
            wait = server.shares.enter(team, size, per_second, must=must)
        except LogError as error:
            await self._refuse(number, error)
            return
        try:
            future = await server.store.submit(stream, batch)
        except BaseException as error:
            server.shares.leave(team, size)
            if not isinstance(error, LogError):
                raise
            await self._refuse(number, error)
            return
        server.rates.add(stream, size)
        self._unacknowledged += size
        future.add_done_callback(partial(self._durable, team, size))
        tasks.create_task(self._acknowledge(number, future, wait))

    def _durable(self, team: str, size: int, _: "asyncio.Future[Appended]") -> None:
        """Nothing is under way any more, though an acknowledgement may still be held back: that takes no room."""
        self._server.shares.leave(team, size)
        self._unacknowledged -= size
        self._room.set()

    async def _acknowledge(self, number: int, future: "asyncio.Future[Appended]", wait: float) -> None:
        try:
            appended = await future
            if wait:
                await asyncio.sleep(wait)
            await self._send(Done(id=number, appended=appended))
        except LogError as error:
            await self._refuse(number, error)

    async def _answer(self, number: int, work: Coroutine[None, None, Reply]) -> None:
        try:
            await self._send(await work)
        except LogError as error:
            await self._refuse(number, error)

    async def _tail(self, request: Tail) -> None:
        server = self._server
        server.stats.tails += 1
        error: LogError | None = None
        try:
            async with asyncio.TaskGroup() as both:
                gone = both.create_task(self._until_gone())
                async for piece in relay.follow_anywhere(server, request):
                    await self._send(More(id=request.id, piece=piece))
                gone.cancel()
        except* LogError as group:
            error = next(each for each in group.exceptions if isinstance(each, LogError))
        finally:
            server.stats.tails -= 1
        # Not above: what is raised in an `except*` CPython before 3.11.4 puts into a group, a cancellation too.
        if error is not None:
            await self._refuse(request.id, error)

    async def _until_gone(self) -> None:
        """Notice a client that leaves while its stream is silent."""
        await self._reader.read(1)
        raise ConnectionResetError("the tail's client has gone")

    async def _refuse(self, number: int, error: LogError) -> None:
        await self._send(refusal(number, error))

    async def _send(self, reply: Reply) -> None:
        await _send(self._writer, reply)


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    data = protocol.encode(reply)
    if len(data) > protocol.MAX_ANSWER and isinstance(reply, Done):
        data = protocol.encode(
            Refused(
                id=reply.id, code="bad-query", message=f"the answer has {len(data)} bytes; ask with a smaller limit"
            )
        )
    writer.write(data)
    if writer.is_closing() or writer.transport.get_write_buffer_size():
        async with asyncio.timeout(STALL_SECONDS):
            await writer.drain()


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
