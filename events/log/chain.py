"""The chain of a partition's batches, checked one after another: hashes, offsets, checksums, counts, versions, times.

Pure: bytes in, a verdict out. Must not know where batches are kept, nor what any event means.
"""

from collections.abc import Sequence

import msgspec

from events.log.codec import BatchHeader, batch_hash, decode_batch
from events.log.errors import CorruptBatch, LogBroken
from events.log.records import EventRecord, Position
from events.log.store import StoredBatch


class ChainBroken(LogBroken):
    """The first thing that is wrong in a partition: where, in which place, what was expected, what was found."""

    def __init__(self, position: Position, *, place: str, expected: str, found: str) -> None:
        super().__init__(f"{position} in {place}: expected {expected}, found {found}")
        self.position = position
        self.place = place
        self.expected = expected
        self.found = found


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What to note outside: every event of `partition` below `offset` is fixed by `hash` (hex), the last batch's.

    Written `partition:offset hash`, one a line.
    """

    partition: int
    offset: int
    hash: str

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset} {self.hash}"


class NotedHead(msgspec.Struct, frozen=True, kw_only=True):
    """A head that somebody noted earlier. Without `at` the hash may be of any batch of any partition."""

    hash: str
    at: Position | None = None


def parse_heads(text: str) -> list[NotedHead]:
    """Read heads, one a line: `partition:offset hash`, or a hash alone. Raises ValueError saying what was expected."""
    noted = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        digest = words[-1].lower()
        if len(words) > 2 or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"expected a noted head like 3:120 9f…(64 hex digits), found {line[:200]!r}")
        noted.append(NotedHead(hash=digest, at=Position.parse(words[0]) if len(words) == 2 else None))
    if not noted:
        raise ValueError("expected at least one noted head (partition:offset hash), found none")
    return noted


class ChainCheck:
    """Checks one partition's batches from offset 0 on. Keeps the last version of every stream: about 150 bytes each."""

    def __init__(self, partition: int, noted: Sequence[NotedHead] = ()) -> None:
        self.partition = partition
        self._noted = {head.at.offset: head for head in noted if head.at is not None and head.at.partition == partition}
        self._sought = {head.hash for head in noted if head.at is None}
        self._versions: dict[str, int] = {}
        self._previous: tuple[BatchHeader, str] | None = None
        self.last_hash = b""
        self.next_offset = 0
        self.epoch = 0
        self.batches = 0
        self.bytes = 0
        self.chained_from: int | None = None
        """From here on each batch carries its predecessor's hash; None while no batch does (format 1)."""
        self.recognised: set[str] = set()
        """Noted hashes without a position that were met."""

    @property
    def head(self) -> Head:
        """The end of what was checked."""
        return Head(partition=self.partition, offset=self.next_offset, hash=self.last_hash.hex())

    def add_all(self, batches: Sequence[StoredBatch], place: str) -> None:
        """Check the next batches, all of `place`. Raises ChainBroken at the first that does not fit."""
        for batch in batches:
            self.add(batch.base, batch.value, f"{place}{batch.base:016x}" if place.endswith("/") else place)

    def add(self, base: int, value: bytes, place: str) -> None:
        """Check the next batch. Raises ChainBroken."""
        at = Position(self.partition, base)
        if base != self.next_offset:
            missing = Position(self.partition, self.next_offset)
            found = f"one that begins at offset {base}: what belongs before it was taken away"
            raise ChainBroken(missing, place=place, expected="a batch that begins there", found=found)
        try:
            header, records = decode_batch(value, at)
        except CorruptBatch as error:
            found = f"a damaged one ({error.why})"
            raise ChainBroken(at, place=place, expected="a whole batch", found=found) from error
        self._check_link(header, at, place)
        self._check_body(header, records, at, place)
        self._check_versions(header, at, place)
        self.last_hash = batch_hash(value)
        self._previous = (header, place)
        self.next_offset = header.end
        self.epoch = header.epoch
        self.batches += 1
        self.bytes += len(value)
        self._compare_noted(header, at, place)

    def finish(self, place: str) -> None:
        """After the last batch. Raises ChainBroken if a noted head lies beyond it."""
        for head in self._noted.values():
            if head.at is not None and head.at.offset > self.next_offset:
                raise ChainBroken(
                    Position(self.partition, self.next_offset),
                    place=place,
                    expected=f"the history that was noted up to {head.at}",
                    found=f"the end of the log at offset {self.next_offset}: what came after was taken away",
                )

    def _check_link(self, header: BatchHeader, at: Position, place: str) -> None:
        if header.format == 1:
            if self.chained_from is not None:
                expected = f"a batch that carries its predecessor's hash, as from offset {self.chained_from} on"
                raise ChainBroken(at, place=place, expected=expected, found="one of format 1, which carries none")
        else:
            if self.chained_from is None:
                self.chained_from = header.base
            self._compare_link(header, at, place)
        if header.epoch < self.epoch:
            expected = f"an epoch of at least {self.epoch}"
            raise ChainBroken(at, place=place, expected=expected, found=f"{header.epoch}: an owner that was fenced")

    def _compare_link(self, header: BatchHeader, at: Position, place: str) -> None:
        if header.previous == self.last_hash:
            return
        if self._previous is None:
            raise ChainBroken(
                at, place=place, expected="a first batch without a predecessor", found=f"one of {header.previous.hex()}"
            )
        # The link is between two batches, and either may be the one that was changed: both are named. The earlier is
        # the position, because its bytes are what the other's word is about.
        before, before_place = self._previous
        raise ChainBroken(
            Position(self.partition, before.base),
            place=before_place,
            expected=f"the batch with hash {header.previous.hex()} that its successor at {at} in {place} follows",
            found=f"one with hash {self.last_hash.hex()}: one of the two was replaced",
        )

    def _check_body(self, header: BatchHeader, records: Sequence[EventRecord], at: Position, place: str) -> None:
        if not records:
            raise ChainBroken(at, place=place, expected="at least one event", found="none")
        spans: dict[str, tuple[int, int]] = {}
        for index, record in enumerate(records):
            first, last = spans.get(record.stream, (record.version, record.version - 1))
            if record.version != last + 1:
                raise ChainBroken(
                    Position(at.partition, at.offset + index),
                    place=place,
                    expected=f"version {last + 1} of stream {record.stream}",
                    found=f"version {record.version}",
                )
            spans[record.stream] = (first, record.version)
        told = {span.stream: (span.first_version, span.last_version) for span in header.streams}
        if told != spans:
            raise ChainBroken(at, place=place, expected=f"the streams {told} of its header", found=f"{spans}")
        times = [record.at for record in records]
        if (header.t_min, header.t_max) != (min(times), max(times)):
            expected = f"times from {header.t_min} to {header.t_max} as its header says"
            raise ChainBroken(at, place=place, expected=expected, found=f"from {min(times)} to {max(times)}")
        covered = [index for span in header.commands for index in range(span.first_index, span.last_index + 1)]
        if covered != list(range(header.count)):
            expected = f"commands that cover its {header.count} events once"
            raise ChainBroken(at, place=place, expected=expected, found=f"they cover {len(covered)}")

    def _check_versions(self, header: BatchHeader, at: Position, place: str) -> None:
        for span in header.streams:
            last = self._versions.get(span.stream, 0)
            if span.first_version != last + 1:
                expected = f"version {last + 1} of stream {span.stream}"
                raise ChainBroken(at, place=place, expected=expected, found=f"version {span.first_version}")
            self._versions[span.stream] = span.last_version

    def _compare_noted(self, header: BatchHeader, at: Position, place: str) -> None:
        digest = self.last_hash.hex()
        if digest in self._sought:
            self.recognised.add(digest)
        for offset in [offset for offset in self._noted if header.base < offset <= header.end]:
            head = self._noted.pop(offset)
            if offset != header.end or head.hash != digest:
                raise ChainBroken(
                    at,
                    place=place,
                    expected=f"the noted head {head.hash} at offset {offset}",
                    found=f"{digest} at offset {header.end}: history was rewritten since it was noted",
                )
