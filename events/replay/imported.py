"""Histories as a file of JSON Lines: how it is read, checked to the last byte before anything is made of it.

The file may come from anybody: nothing in it is run, no line may be longer than a bound, and memory holds places in
the file, not events. Must not know a live log.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from events.log.records import StoredEvent, partition_of
from events.model.base import partition_key
from events.replay.errors import BadHistoryFile
from events.replay.export import BLOCK_EVENTS, FORMAT, VERSION, Chain, EventLine, Header, StreamLine, readable_body

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of one line. An event's batch is 256 KiB at most; as base64 and as JSON escapes that is below 2 MiB. The header
names every stream: 100,000 of them take about 8 MiB."""
MAX_PARTITIONS = 4096

_header = msgspec.json.Decoder(Header)
_event = msgspec.json.Decoder(EventLine)


def read_header(path: Path) -> Header:
    """What a file says of itself, without a look at the rest. Raises BadHistoryFile and OSError."""
    with path.open("rb") as file:
        return _Checking(file).read_header()


class HistoryFile:
    """An exported file, opened for reading: a `Past`. Made by `open`, which has checked all of it."""

    def __init__(self, path: Path, checked: "_Checking") -> None:
        self.header = checked.header
        self._path = path
        self._by_partition = checked.by_partition
        self._by_stream = checked.by_stream
        self._last = checked.offsets

    @classmethod
    def open(cls, path: Path) -> "HistoryFile":
        """Check the whole file. Raises BadHistoryFile naming the line, and OSError."""
        with path.open("rb") as file:
            checking = _Checking(file)
            checking.run()
        return cls(path, checking)

    @property
    def partitions(self) -> int:
        """P of the log that it was taken from."""
        return self.header.partitions

    @property
    def streams(self) -> list[StreamLine]:
        """What it holds, by name."""
        return list(self.header.streams)

    async def read(
        self, partition: int, from_offset: int, *, stream: str | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        """Events of a partition, in order; see `Past.read`. Raises BadHistoryFile if the file changed meanwhile."""
        nothing = array("Q")
        places = self._by_partition.get(partition, nothing) if stream is None else self._by_stream.get(stream, nothing)
        for start in range(0, len(places), BLOCK_EVENTS):
            block = await asyncio.to_thread(self._block, places[start : start + BLOCK_EVENTS])
            wanted = [stored for stored in block if stored.position.offset >= from_offset]
            if wanted:
                yield wanted

    async def tail(self, partition: int) -> int:
        """The offset after the last event that it holds; see `Past.tail`. What came then nobody knows from here."""
        return self._last.get(partition, -1) + 1

    def _block(self, places: "array[int]") -> list[StoredEvent]:
        found: list[StoredEvent] = []
        with self._path.open("rb") as file:
            for place in places:
                file.seek(place)
                try:
                    found.append(_event.decode(file.readline(MAX_LINE_BYTES)).stored())
                except msgspec.MsgspecError as error:
                    raise BadHistoryFile(0, f"the file changed while it was read: {error}") from None
        return found


class _Checking:
    """One pass over a file: every line is what it should be, none is missing, and all of them are in the chain."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._chain = Chain()
        self._versions: dict[str, int] = {}
        self.offsets: dict[int, int] = {}
        self.header: Header
        self.by_partition: dict[int, array[int]] = {}
        self.by_stream: dict[str, array[int]] = {}

    def run(self) -> None:
        """Raises BadHistoryFile."""
        self.header = self.read_header()
        for place, line in self._lines():
            stored = self._event(line)
            self._chain.add([stored])
            self.by_partition.setdefault(stored.position.partition, array("Q")).append(place)
            self.by_stream.setdefault(stored.record.stream, array("Q")).append(place)
        self._finish()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        while True:
            place = self._file.tell()
            line = self._file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            self._number += 1
            if len(line) > MAX_LINE_BYTES:
                raise self._bad(f"expected a line of at most {MAX_LINE_BYTES} bytes, found a longer one")
            if not line.endswith(b"\n"):
                raise self._bad("expected the line to end, found the end of the file: it was cut off; export it again")
            yield place, line

    def read_header(self) -> Header:
        """The first line, if it is a header that this version reads. Raises BadHistoryFile."""
        expected = f'expected a header like {{"format":"{FORMAT}","version":{VERSION},…}}'
        first = next(self._lines(), None)
        if first is None:
            raise BadHistoryFile(1, f"{expected}, found an empty file")
        try:
            header = _header.decode(first[1])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._bad(f"{expected}, found something else ({error}); is it a file of rayfold export?") from None
        if header.format != FORMAT:
            raise self._bad(f"{expected}, found the format {header.format[:60]!r}; is it a file of rayfold export?")
        if header.version != VERSION:
            raise self._bad(
                f"expected version {VERSION} of the format, found {header.version}; read it with rayfold "
                f"{header.rayfold[:40]}, which wrote it"
            )
        if not 1 <= header.partitions <= MAX_PARTITIONS:
            raise self._bad(f"expected 1 to {MAX_PARTITIONS} partitions, found {header.partitions}")
        return header

    def _event(self, line: bytes) -> StoredEvent:
        try:
            event = _event.decode(line)
            readable = readable_body(event.raw)
            told = msgspec.json.decode(event.body)
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
            raise self._bad(f"expected an event, found something else ({error}); export it again") from None
        if told != msgspec.json.decode(readable):
            raise self._bad("its body and its raw body tell different things: it was changed; export it again")
        stored = event.stored()
        self._place(stored)
        return stored

    def _place(self, stored: StoredEvent) -> None:
        """Each stream from its first event on and in its partition, each partition in order."""
        stream, version = stored.record.stream, stored.record.version
        expected = self._versions.get(stream, 0) + 1
        if version != expected:
            wrong = "an event is missing" if version > expected else "a line is in the file twice"
            raise self._bad(f"expected version {expected} of {stream[:200]}, found {version}: {wrong}")
        home = partition_of(partition_key(stream), self.header.partitions)
        partition, offset = stored.position
        if partition != home or offset <= self.offsets.get(partition, -1):
            raise self._bad(f"expected a later place in partition {home}, found {stored.position}: it was moved")
        self._versions[stream] = version
        self.offsets[partition] = offset

    def _finish(self) -> None:
        told = {line.stream: line.events for line in self.header.streams}
        found = sum(self._versions.values())
        self._number += 1
        if found < self.header.events:
            raise self._bad(
                f"expected {self.header.events} events, found {found} before the end of the file: it was cut off; "
                "export it again"
            )
        if told != self._versions or found != self.header.events:
            raise self._bad("expected the streams that the header names, found others; export it again")
        if self._chain.head() != self.header.chain:
            raise self._bad("its events are not those that the header's chain sums up: it was changed; export it again")

    def _bad(self, problem: str) -> BadHistoryFile:
        return BadHistoryFile(self._number, problem)
