"""What a partition's owner remembers: which commands committed and where, and how far each stream has come.

Plain memory, rebuilt from batch headers by whoever claims a partition; knows nothing of how batches are kept.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

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
        self._spans: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spans)

    def entries(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Every remembered command with its first offset, last offset and last version; the oldest first."""
        return list(self._spans.items())

    def restore(self, entries: Iterable[tuple[str, tuple[int, int, int]]]) -> None:
        """Remember what `entries` gave, in its order, before any header that came later."""
        self._spans.update(entries)
        while len(self._spans) > self._window:
            self._spans.popitem(last=False)

    def record_header(self, header: BatchHeader) -> None:
        """Remember every command of a committed batch. A first result stays for as long as its id is remembered."""
        spans, base = self._spans, header.base
        for span in header.commands:
            spans.setdefault(span.command_id, (base + span.first_index, base + span.last_index, span.last_version))
        while len(spans) > self._window:
            spans.popitem(last=False)

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
    """The last version of each stream seen lately. A stream not seen is not judged: its owner has folded it."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._last: OrderedDict[str, int] = OrderedDict()

    def advance(self, spans: Sequence[StreamSpan]) -> None:
        """Remember the spans, or raise VersionConflict and remember nothing unless each continues its stream."""
        seen = self._last
        for span in spans:
            last = seen.get(span.stream)
            if last is not None and span.first_version != last + 1:
                raise VersionConflict(stream=span.stream, expected=last + 1, found=span.first_version)
        for span in spans:
            self._record(span)

    def restore(self, versions: Iterable[tuple[str, int]]) -> None:
        """Remember streams and their last versions, before any span that came later."""
        self._last.update(versions)
        while len(self._last) > self._window:
            self._last.popitem(last=False)

    def record(self, spans: Iterable[StreamSpan]) -> None:
        """Remember the spans of what is stored already."""
        for span in spans:
            self._record(span)

    def _record(self, span: StreamSpan) -> None:
        last = self._last
        last[span.stream] = span.last_version
        last.move_to_end(span.stream)
        if len(last) > self._window:
            last.popitem(last=False)
