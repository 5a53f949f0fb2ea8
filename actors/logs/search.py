"""Work on stored lines in processes of their own: scans that filter, counts, and the sealing of segments.

Matching and unpacking in the server's process would hold the interpreter that every stream's lines go through. A worker
that takes too long over one piece is killed, so that no pattern can keep one. Knows how to run a piece of work, not
what a query or a tail is.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Literal

import msgspec

from actors.logs.background import Background
from actors.logs.errors import BadQuery, LogError, QueryTooCostly, StorageFailed, StreamMoved
from actors.logs.filter import LineFilter
from actors.logs.line import LogLine
from actors.logs.measure import Counts
from actors.logs.reader import Scan, backward, forward
from actors.logs.seal import seal
from actors.logs.tally import tally
from actors.logs.view import StreamView

PIECE_SECONDS = 5
"""A worker dies when one piece (at most SCAN_BYTES stored bytes) takes longer than this."""
SEAL_SECONDS = 120
"""The same for a segment that is sealed, which is done at low priority."""
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""Of glibc: unpacking a block takes its MiB from what the worker has. Else each comes from the kernel, page by page and
set to zero, which costs a fifth of a scan."""
_START_SECONDS = 20.0
_END_SECONDS = 0.5
"""A worker that is not in the middle of a match ends by itself as soon as its input does."""


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One scan to be done: as the arguments of `reader.forward` and `reader.backward`."""

    direction: Literal["forward", "backward"]
    view: StreamView
    cursor: int
    limit: int
    filter: LineFilter
    stop: int = 0

    def run(self) -> Scan:
        """Do it (blocking). Raises BadQuery."""
        scan = forward if self.direction == "forward" else backward
        return scan(self.view, self.cursor, limit=self.limit, flt=self.filter, stop=self.stop)


class Tally(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Counts to be made: as the arguments of `tally.tally`."""

    view: StreamView
    cursor: int
    stop: int
    since: int = 0
    until: int = 0


class Seal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A segment to be sealed: `path` is its file, of which `size` bytes are durable."""

    path: str
    size: int


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    lines: list[LogLine] = []
    cursor: int = 0
    done: bool = False
    wanted: str = ""
    counts: Counts | None = None
    bad_query: str = ""
    storage_failed: str = ""
    moved: str = ""


_Work = Piece | Tally | Seal


class Searcher:
    """Runs work in at most `workers` processes (one for each core without), started when first needed, kept until
    `aclose`; `nice` is added to their niceness."""

    def __init__(self, workers: int | None = None, *, nice: int = 0) -> None:
        self.workers = workers or os.cpu_count() or 2
        self._slots = asyncio.Semaphore(self.workers)
        self._idle: list[asyncio.subprocess.Process] = []
        self._nice = nice
        self._tasks = Background("log search")

    async def run(self, piece: Piece) -> Scan:
        """The piece's lines. Raises BadQuery, QueryTooCostly, StorageFailed."""
        if not piece.filter.passes_all():
            answer = await self._ask(piece, PIECE_SECONDS)
            return Scan(answer.lines, answer.cursor, answer.done, answer.wanted)
        try:
            return await asyncio.to_thread(piece.run)
        except OSError as error:
            raise StorageFailed(f"stream {piece.view.name}: cannot read: {error}") from error

    async def tally(self, work: Tally) -> tuple[Counts, int, str]:
        """The counts up to the number that is returned, and what must be fetched first. Raises as `run`."""
        answer = await self._ask(work, PIECE_SECONDS)
        return answer.counts or Counts(), answer.cursor, answer.wanted

    async def seal(self, work: Seal) -> None:
        """Have a segment sealed; the old file is left. Raises StorageFailed, QueryTooCostly."""
        await self._ask(work, SEAL_SECONDS)

    async def warm(self) -> None:
        """Start the workers now, so that nobody's first query waits for them."""
        self._idle += [await _start(self._nice) for _ in range(self.workers - len(self._idle))]

    async def aclose(self) -> None:
        """End the workers."""
        await self._tasks.aclose()
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, work: _Work, seconds: int) -> _Answer:
        # Whoever asks may go away; the exchange ends all the same, and the worker is there for the next.
        answered: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        await self._slots.acquire()
        self._tasks.start(self._exchange(work, seconds, answered))
        answer = await answered
        if answer.bad_query:
            raise BadQuery(answer.bad_query)
        if answer.storage_failed:
            raise StorageFailed(answer.storage_failed)
        if answer.moved:
            raise StreamMoved(answer.moved)
        return answer

    async def _exchange(self, work: _Work, seconds: int, answered: "asyncio.Future[_Answer]") -> None:
        try:
            answer = await self._in_worker(work, seconds)
        except LogError as error:
            if not answered.done():
                answered.set_exception(error)
        except asyncio.CancelledError:
            answered.cancel()
            raise
        else:
            if not answered.done():
                answered.set_result(answer)
        finally:
            self._slots.release()

    async def _in_worker(self, work: _Work, seconds: int) -> _Answer:
        worker = self._idle.pop() if self._idle else await _start(self._nice)
        try:
            async with asyncio.timeout(seconds + _START_SECONDS):
                answer = await _exchange(worker, work)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            code = await _end(worker)
            if code not in (-signal.SIGALRM, -signal.SIGKILL):
                raise LogError(f"expected an answer of the search worker, found its end with code {code}") from error
            raise QueryTooCostly(
                f"one piece of the stream took more than {seconds} s; use a simpler pattern, or a word"
            ) from error
        except BaseException:
            # Cancelled in the middle of an exchange: what the worker says next belongs to nobody.
            await _end(worker)
            raise
        self._idle.append(worker)
        return answer


async def _start(nice: int) -> asyncio.subprocess.Process:
    # The worker must find this package whatever the working directory of an actor is.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "actors.logs.search",
        str(nice),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **_KEPT_MEMORY, "PYTHONPATH": path},
    )


async def _end(worker: asyncio.subprocess.Process) -> int:
    """End the worker; its exit code, negative for a signal."""
    if worker.stdin is not None:
        worker.stdin.close()
    try:
        async with asyncio.timeout(_END_SECONDS):
            return await worker.wait()
    except TimeoutError:
        worker.kill()
        return await worker.wait()


async def _exchange(worker: asyncio.subprocess.Process, work: _Work) -> _Answer:
    assert worker.stdin is not None and worker.stdout is not None  # noqa: S101 (both are pipes)
    data = msgspec.msgpack.encode(work)
    worker.stdin.write(len(data).to_bytes(4, "big") + data)
    await worker.stdin.drain()
    size = int.from_bytes(await worker.stdout.readexactly(4), "big")
    return msgspec.msgpack.decode(await worker.stdout.readexactly(size), type=_Answer)


def _do(work: _Work) -> _Answer:
    try:
        match work:
            case Piece():
                scan = work.run()
                return _Answer(lines=scan.lines, cursor=scan.cursor, done=scan.done, wanted=scan.wanted)
            case Tally():
                counts, cursor, wanted = tally(
                    work.view, work.cursor, stop=work.stop, since=work.since, until=work.until
                )
                return _Answer(counts=counts, cursor=cursor, wanted=wanted)
            case Seal():
                seal(Path(work.path), work.size)
                return _Answer(done=True)
    except BadQuery as error:
        return _Answer(bad_query=str(error))
    except StreamMoved as error:
        return _Answer(moved=str(error))
    except OSError as error:
        return _Answer(storage_failed=f"cannot read or write: {error}")


def _serve() -> None:
    """The worker: one piece after the other, until the server has gone."""
    os.nice(int(sys.argv[1]))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(4):
        work: _Work = msgspec.msgpack.decode(source.read(int.from_bytes(head, "big")), type=_Work)
        # The default action of SIGALRM ends the process even in the middle of a match, and though the server has died.
        signal.alarm(SEAL_SECONDS if isinstance(work, Seal) else PIECE_SECONDS)
        answer = _do(work)
        signal.alarm(0)
        data = msgspec.msgpack.encode(answer)
        sink.write(len(data).to_bytes(4, "big") + data)
        sink.flush()


if __name__ == "__main__":
    _serve()
