"""What a partition's owner remembers: which commands committed and where, and how far each stream has come.

Plain memory, rebuilt from batch headers by whoever claims a partition; knows nothing of how batches are kept.
"""

from collections import OrderedDict
from collections.abc import Iterable

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

    def record(self, command_id: str, first: int, last: int, version: int) -> None:
        """Remember where a committed command's events are. The first result stays while the id is remembered."""
        self._spans.setdefault(command_id, (first, last, version))
        if len(self._spans) > self._window:
            self._spans.popitem(last=False)

    def record_header(self, header: BatchHeader) -> None:
        """Remember every command of a committed batch."""
        for span in header.commands:
            self.record(
                span.command_id, header.base + span.first_index, header.base + span.last_index, span.last_version
            )

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

    def check(self, spans: Iterable[StreamSpan]) -> None:
        """Raise VersionConflict unless every span continues its stream."""
        for span in spans:
            last = self._last.get(span.stream)
            if last is not None and span.first_version != last + 1:
                raise VersionConflict(stream=span.stream, expected=last + 1, found=span.first_version)

    def record(self, spans: Iterable[StreamSpan]) -> None:
        for span in spans:
            self._last[span.stream] = span.last_version
            self._last.move_to_end(span.stream)
            if len(self._last) > self._window:
                self._last.popitem(last=False)
