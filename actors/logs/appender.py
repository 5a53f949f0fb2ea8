"""Platform and build lines: taken at once from whoever has something to say, sent in the background, losses counted.

Knows a sink; nothing of what the lines mean. An operation's outcome never depends on a line: it is an event.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from actors.logs.background import Background
from actors.logs.errors import LogError, StreamClosed, Unreachable, WrongPosition
from actors.logs.line import MAX_TEXT, LineRecord, Source, check_stream_name, gap_record
from actors.logs.view import Appended
from events.clock import now_micros

_log = logging.getLogger(__name__)

_BATCH_LINES = 1_000
_BATCH_CHARS = 512 * 1024
_LINE_COST = 100
"""What a line counts towards the queue's bound beside its characters."""
_IDLE_STREAMS = 1_024
"""Silent streams whose position is remembered; a forgotten one goes on under a new source id."""


class Sink(Protocol):
    """Where lines are sent: `actors.logs.intake.client.IntakeClient`, or a LogClient."""

    async def append(
        self, stream: str, source_id: str, lines: Sequence[LineRecord], *, after: int, upto: int
    ) -> Appended:
        """Store lines once, however often they are sent; returns when they are durable. Raises LogError."""
        ...

    async def close_stream(self, stream: str, outcome: str, *, seconds: float | None = None) -> None:
        """End a finite stream. Raises Unreachable."""
        ...


class _Queue:
    """The lines of one stream that wait to be sent. `lost` came after them and could not be kept; with an `outcome`
    the stream is to end behind them."""

    def __init__(self, name: str) -> None:
        self.source_id = f"{name}/{uuid.uuid4().hex[:12]}"
        self.lines: deque[LineRecord] = deque()
        self.lost = 0
        self.sent = 0
        self.queued = False
        self.outcome = ""


class LogAppender:
    """Bounded queue in front of a sink. `name` says who writes, e.g. the node and the actor.

    Lines waiting here are lost when the process dies; those taken by the server are stored once, whatever breaks.
    """

    def __init__(self, client: Sink, name: str, *, max_bytes: int = 8 * 1024 * 1024) -> None:
        self.lost_lines = 0
        self._client = client
        self._name = name
        self._max_bytes = max_bytes
        self._bytes = 0
        self._streams: OrderedDict[str, _Queue] = OrderedDict()
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._room = asyncio.Condition()
        self._tasks = Background("log appender")
        self._senders = 4

    def start(self) -> None:
        """Begin to send. Call from the event loop; `emit` works before, up to the bound."""
        for _ in range(self._senders):
            self._tasks.start(self._send_all())

    def emit(
        self,
        stream: str,
        text: str,
        *,
        source: Source = "platform",
        instance: str = "",
        release: int = 0,
        at: int | None = None,
    ) -> bool:
        """Take `text` (its lines become lines), never waiting; False when there was no room and a gap was counted.

        Call from the event loop's thread. Raises BadStreamName.
        """
        when = now_micros() if at is None else at
        taken = True
        for line, partial in _pieces(text):
            record = LineRecord(at=when, text=line, source=source, instance=instance, release=release, partial=partial)
            taken = self._put(stream, record) and taken
        return taken

    def end(self, stream: str, outcome: str) -> None:
        """End a finite stream behind the lines that were taken for it, never waiting; what comes later is refused."""
        queue = self._queue(stream)
        queue.outcome = outcome
        self._wake(stream, queue)

    async def write(self, stream: str, record: LineRecord) -> None:
        """Take `record`, waiting while there is no room: for output that must not be lost, such as a build's."""
        while not self._has_room(record):
            async with self._room:
                await self._room.wait_for(lambda: self._has_room(record))
        self._put(stream, record)

    async def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all that was taken is stored; False when `seconds` pass first."""
        self._tasks.check()
        try:
            async with asyncio.timeout(seconds), self._room:
                await self._room.wait_for(self._is_empty)
        except TimeoutError:
            return False
        return True

    async def close_stream(self, stream: str, outcome: str, seconds: float = 10.0) -> None:
        """Flush, then end a finite stream. Raises Unreachable when the time is over."""
        if not await self.flush(seconds):
            raise Unreachable(f"the lines before the end of {stream} were not taken in {seconds} s")
        await self._client.close_stream(stream, outcome, seconds=seconds)

    async def aclose(self, seconds: float = 5.0) -> None:
        """Flush for at most `seconds`, then stop; what is left is lost and logged."""
        with suppress(RuntimeError):
            if not await self.flush(seconds):
                left = sum(len(queue.lines) + queue.lost for queue in self._streams.values())
                _log.warning("log appender %s: %d lines were not taken by the log server", self._name, left)
        await self._tasks.aclose()

    def _is_empty(self) -> bool:
        return not any(queue.queued for queue in self._streams.values())

    def _has_room(self, record: LineRecord) -> bool:
        return self._bytes + len(record.text) + _LINE_COST <= self._max_bytes

    def _put(self, stream: str, record: LineRecord) -> bool:
        queue = self._queue(stream)
        # Once lines were lost, the gap must come before anything that follows them.
        kept = not queue.lost and self._has_room(record)
        if kept:
            queue.lines.append(record)
            self._bytes += len(record.text) + _LINE_COST
        else:
            queue.lost += 1
            self.lost_lines += 1
        self._wake(stream, queue)
        return kept

    def _wake(self, stream: str, queue: _Queue) -> None:
        if not queue.queued:
            queue.queued = True
            self._ready.put_nowait(stream)

    def _queue(self, stream: str) -> _Queue:
        queue = self._streams.get(stream)
        if queue is None:
            queue = self._streams[check_stream_name(stream)] = _Queue(self._name)
            for name in list(self._streams)[: len(self._streams) - _IDLE_STREAMS]:
                if not self._streams[name].queued:
                    del self._streams[name]
        self._streams.move_to_end(stream)
        return queue

    async def _send_all(self) -> None:
        while True:
            stream = await self._ready.get()
            queue = self._streams[stream]
            if queue.lines or queue.lost:
                await self._send(stream, queue)
            elif queue.outcome:
                await self._end(stream, queue)
            if queue.lines or queue.lost or queue.outcome:
                self._ready.put_nowait(stream)
            else:
                queue.queued = False
            async with self._room:
                self._room.notify_all()

    async def _send(self, stream: str, queue: _Queue) -> None:
        lines: list[LineRecord] = []
        size = 0
        while queue.lines and len(lines) < _BATCH_LINES and size < _BATCH_CHARS:
            lines.append(queue.lines.popleft())
            size += len(lines[-1].text)
        if not queue.lines and queue.lost:
            reason = f"{queue.lost} lines lost: they came faster than they could be sent"
            lines.append(gap_record(queue.lost, reason, now_micros()))
            queue.lost = 0
        upto = queue.sent + len(lines)
        try:
            await self._client.append(stream, queue.source_id, lines, after=queue.sent, upto=upto)
        except (StreamClosed, WrongPosition) as error:
            self.lost_lines += len(lines)
            _log.warning("log appender %s: %d lines for %s were refused: %s", self._name, len(lines), stream, error)
        except LogError as error:
            self.lost_lines += len(lines)
            _log.error("log appender %s: %d lines for %s were refused: %s", self._name, len(lines), stream, error)
        else:
            queue.sent = upto
        self._bytes -= sum(len(line.text) + _LINE_COST for line in lines if not line.gap)

    async def _end(self, stream: str, queue: _Queue) -> None:
        try:
            await self._client.close_stream(stream, queue.outcome)
        except LogError as error:
            _log.error("log appender %s: %s is not ended: %s", self._name, stream, error)
        queue.outcome = ""


def _pieces(text: str) -> list[tuple[str, bool]]:
    """The lines of `text`, the too long ones cut; with each, whether the next goes on with it."""
    lines = text.rstrip("\n").split("\n")
    pieces: list[tuple[str, bool]] = []
    for line in lines:
        safe = line.encode("utf-8", "replace").decode("utf-8")
        cuts = [safe[start : start + MAX_TEXT] for start in range(0, len(safe), MAX_TEXT)] or [""]
        pieces += [(cut, position + 1 < len(cuts)) for position, cut in enumerate(cuts)]
    return pieces
