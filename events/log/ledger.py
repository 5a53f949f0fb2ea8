"""What a partition's owner remembers: which commands committed and where, and how far each stream has come.

Plain memory, rebuilt from batch headers by whoever claims a partition; knows nothing of how batches are kept.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import msgspec

from events.log.codec import BatchHeader, StreamSpan
from events.log.errors import VersionConflict
from events.log.port import Committed
from events.log.records import Position

WINDOW = 200_000
"""Command ids, and streams, remembered per partition."""

RUN_COMMANDS = 512
"""A repeated command is looked for among so many; fewer would cost memory."""


class _Run(msgspec.Struct, eq=False):
    """Commands that were remembered one after another. It only grows.

    One object for hundreds: small ones of each command are in no cache any more when it is forgotten, and to fetch them
    for that takes longer than all else here.
    """

    ids: list[str]
    firsts: "array[int]"
    lasts: "array[int]"
    versions: "array[int]"


class RememberedCommands:
    """The commands that a ledger knew at one moment, the oldest first: id, then first offset, last offset and last
    version. Made as they are asked for, which another thread may do while the ledger goes on."""

    def __init__(self, runs: Sequence[_Run], begin: int, count: int) -> None:
        """`count` of those in `runs`, from the one with index `begin` on."""
        self._runs = runs
        self._begin = begin
        self._count = count

    def __iter__(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        every = (
            zip(run.ids[:], zip(run.firsts[:], run.lasts[:], run.versions[:], strict=False), strict=False)
            for run in self._runs
        )
        return islice(chain.from_iterable(every), self._begin, self._begin + self._count)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RememberedCommands) and list(self) == list(other)


class CommandLedger:
    """First results of the newest `window` commands of one partition."""

    def __init__(self, partition: int, window: int = WINDOW) -> None:
        self._partition = partition
        self._window = window
        # An id that was forgotten and comes again must come in another run than the first time.
        self._run_commands = min(RUN_COMMANDS, window)
        self._places: dict[str, _Run] = {}
        self._runs: deque[_Run] = deque()
        self._forgotten = 0
        """Of the oldest run."""

    def __len__(self) -> int:
        return len(self._places)

    def entries(self) -> RememberedCommands:
        """Every remembered command."""
        return RememberedCommands(tuple(self._runs), self._forgotten, len(self._places))

    def restore(self, entries: Iterable[tuple[str, tuple[int, int, int]]]) -> None:
        """Remember what `entries` gave, in its order, before any header that came later."""
        remaining = iter(entries)
        while block := list(islice(remaining, RUN_COMMANDS)):
            ids, places = zip(*block, strict=True)
            self._remember(list(ids), *zip(*places, strict=True))

    def record_header(self, header: BatchHeader) -> None:
        """Remember every command of a committed batch. A first result stays for as long as its id is remembered."""
        spans, base = header.commands, header.base
        ids = [span.command_id for span in spans]
        if not self._places.keys().isdisjoint(ids):
            spans = tuple(span for span in spans if span.command_id not in self._places)
            ids = [span.command_id for span in spans]
        self._remember(
            ids,
            [base + span.first_index for span in spans],
            [base + span.last_index for span in spans],
            [span.last_version for span in spans],
        )

    def find(self, command_id: str) -> Committed | None:
        """The first result, marked as a duplicate."""
        run = self._places.get(command_id)
        if run is None:
            return None
        index = run.ids.index(command_id)
        return Committed(
            first=Position(self._partition, run.firsts[index]),
            last=Position(self._partition, run.lasts[index]),
            version=run.versions[index],
            duplicate=True,
        )

    def _remember(self, ids: list[str], firsts: Sequence[int], lasts: Sequence[int], versions: Sequence[int]) -> None:
        if not self._runs or len(self._runs[-1].ids) >= self._run_commands:
            self._runs.append(_Run([], array("Q"), array("Q"), array("Q")))
        run = self._runs[-1]
        run.firsts.extend(firsts)
        run.lasts.extend(lasts)
        run.versions.extend(versions)
        run.ids += ids
        self._places.update(dict.fromkeys(ids, run))
        while (excess := len(self._places) - self._window) > 0:
            self._forget(excess)

    def _forget(self, most: int) -> None:
        """The oldest, at most so many and all of one run."""
        places, run = self._places, self._runs[0]
        doomed = run.ids[self._forgotten : self._forgotten + most]
        for command_id in doomed:
            places.pop(command_id, None)
        self._forgotten += len(doomed)
        if self._forgotten == len(run.ids):
            self._runs.popleft()
            self._forgotten = 0


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
        known, earlier = self._last, self._earlier
        for span in spans:
            last = known.get(span.stream)
            if last is None and earlier:
                last = earlier.get(span.stream)
            if last is not None and span.first_version != last + 1:
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
