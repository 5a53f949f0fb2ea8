"""What a partition's owner remembers: which commands committed and where, and how far each stream has come.

Plain memory, rebuilt from batch headers by whoever claims a partition; knows nothing of how batches are kept.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec.structs import astuple

from events.log.codec import BatchHeader, StreamSpan
from events.log.errors import VersionConflict
from events.log.port import Committed
from events.log.records import Position

WINDOW = 200_000
"""Command ids, and streams, remembered per partition."""


class CommandLedger:
    """First results of the newest `window` commands of one partition."""

    def __init__(self, partition: int, window: int = WINDOW) -> None:
        self._partition = partition
        self._window = window
        self._spans: dict[str, tuple[int, int, int]] = {}
        self._order: deque[str] = deque()
        """The ids, the oldest first: a plain dictionary is slow to tell which of its keys that is."""

    def __len__(self) -> int:
        return len(self._spans)

    def entries(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Every remembered command with its first offset, last offset and last version; the oldest first."""
        return list(self._spans.items())

    def restore(self, entries: Iterable[tuple[str, tuple[int, int, int]]]) -> None:
        """Remember what `entries` gave, in its order, before any header that came later."""
        for command_id, place in entries:
            self._spans[command_id] = place
            self._order.append(command_id)
        self._forget()

    def record_header(self, header: BatchHeader) -> None:
        """Remember every command of a committed batch. A first result stays for as long as its id is remembered."""
        setdefault, append, base = self._spans.setdefault, self._order.append, header.base
        for command_id, first_index, last_index, version in map(astuple, header.commands):
            first = base + first_index
            place = (first, first if first_index == last_index else base + last_index, version)
            if setdefault(command_id, place) is place:
                append(command_id)
        self._forget()

    def _forget(self) -> None:
        spans, order = self._spans, self._order
        while len(spans) > self._window:
            del spans[order.popleft()]

    def find(self, command_id: str) -> Committed | None:
        """The first result, marked as a duplicate."""
        span = self._spans.get(command_id)
        if span is None:
            return None
        first, last, version = span
        return Committed(
            first=Position(self._partition, first),
            last=Position(self._partition, last),
            version=version,
            duplicate=True,
        )


class StreamVersions:
    """The last version of each stream seen lately: of the newest `window` streams, and of at most as many before them.

    A stream not seen is not judged: its owner has folded it.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._last: dict[str, int] = {}
        self._earlier: dict[str, int] = {}
        """What `_last` held when it was full: to forget all of them at once is cheaper than to keep them in order."""

    def advance(self, spans: Sequence[StreamSpan]) -> None:
        """Remember the spans, or raise VersionConflict and remember nothing unless each continues its stream."""
        for span in spans:
            last = self._last.get(span.stream)
            if last is None and (last := self._earlier.get(span.stream)) is None:
                continue
            if span.first_version != last + 1:
                raise VersionConflict(stream=span.stream, expected=last + 1, found=span.first_version)
        self.record(spans)

    def restore(self, versions: Iterable[tuple[str, int]]) -> None:
        """Remember streams and their last versions, before any span that came later."""
        for stream, version in versions:
            self._last[stream] = version
            if len(self._last) >= self._window:
                self._earlier, self._last = self._last, {}

    def record(self, spans: Iterable[StreamSpan]) -> None:
        """Remember the spans of what is stored already."""
        for span in spans:
            self._last[span.stream] = span.last_version
            if len(self._last) >= self._window:
                self._earlier, self._last = self._last, {}
