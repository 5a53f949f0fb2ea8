"""The events of a segment once more, those of each stream together: what a fold reads in place of the batches.

Made of the batches and of nothing else. Knows facts; nothing of what an event means, nor of where bytes are kept.
"""

from collections.abc import Iterable, Iterator

import msgspec
import zstandard

from events.log.columns import Facts
from events.log.errors import CorruptSegment
from events.log.records import Position

MAGIC = b"RFR1"
BLOCK_BYTES = 256 << 10
"""Of bodies in one block, or one stream's where those are more: what is unpacked at a time."""
LEVEL = 3  # written once, read many times; more takes three times as long for a tenth

Kind = tuple[str, int]
"""Type and schema version."""


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one stream gained in a segment: its versions from `first_version` on, at offsets from first to last.

    Per event, in the stream's order: the index of its kind in the block's, microseconds after the block's `t_min`, and
    its body, undecoded.
    """

    stream: str
    first_version: int
    first_offset: int
    last_offset: int
    kinds: list[int]
    after: list[int]
    bodies: list[msgspec.Raw]


class Block(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Some streams' runs; `kinds` are those of their events. Each stream is in one block of a segment."""

    t_min: int
    kinds: list[Kind]
    runs: list[Run]


class Runs:
    """The runs of a segment whose bytes were checked: all its events, which are those at [base, end)."""

    def __init__(self, *, partition: int, base: int, end: int, location: str, section: memoryview) -> None:
        self.base = base
        self.end = end
        self._at = Position(partition, base)
        self._location = location
        self._section = section

    def blocks(self) -> Iterator[Block]:
        """All of them, one after another. Blocking. Raises CorruptSegment, which can only be if it was written so."""
        decompressor = zstandard.ZstdDecompressor()
        count = 0
        try:
            for packed in _section_decoder.decode(self._section[len(MAGIC) :]):
                block = _block_decoder.decode(decompressor.decompress(packed))
                count += sum(len(run.bodies) for run in block.runs)
                yield block
        except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError) as error:
            raise CorruptSegment(self._at, self._location, f"its runs cannot be decoded: {error}") from error
        if count != (wanted := self.end - self.base):
            why = f"expected {wanted} events in its runs as its manifest says, found {count}"
            raise CorruptSegment(self._at, self._location, why)


class _Growing:
    """A run while events are added to it."""

    __slots__ = ("bodies", "first_offset", "first_version", "kinds", "last_offset", "times")

    def __init__(self, version: int, offset: int) -> None:
        self.first_version = version
        self.first_offset = self.last_offset = offset
        self.kinds: list[Kind] = []
        self.times: list[int] = []
        self.bodies: list[msgspec.Raw] = []


_encoder = msgspec.msgpack.Encoder()
_block_decoder = msgspec.msgpack.Decoder(Block)
_section_decoder = msgspec.msgpack.Decoder(list[memoryview])


def encode_runs(batches: Iterable[Facts]) -> bytes:
    """The section of a segment of these contiguous batches; empty where a stream's versions leave a gap, for only the
    batches can tell what is missing where. Blocking: about 3 us an event, reading them included."""
    streams = _gather(batches)
    if streams is None:
        return b""
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    return MAGIC + _encoder.encode([compressor.compress(block) for block in _blocks(streams)])


def _gather(batches: Iterable[Facts]) -> dict[str, _Growing] | None:
    """By stream; None where the versions of one leave a gap."""
    streams: dict[str, _Growing] = {}
    for facts in batches:
        kinds = zip(facts.types, facts.schema_versions, strict=True)
        columns = zip(facts.streams, facts.versions, kinds, facts.times, facts.bodies, strict=True)
        for offset, (stream, version, kind, at, body) in enumerate(columns, facts.base):
            run = streams.get(stream)
            if run is None:
                run = streams[stream] = _Growing(version, offset)
            elif version != run.first_version + len(run.bodies):
                return None
            run.last_offset = offset
            run.kinds.append(kind)
            run.times.append(at)
            run.bodies.append(body)
    return streams


def _blocks(streams: dict[str, _Growing]) -> Iterator[bytes]:
    gathered: dict[str, _Growing] = {}
    size = 0
    for stream, run in streams.items():
        gathered[stream] = run
        size += sum(len(memoryview(body)) for body in run.bodies)
        if size >= BLOCK_BYTES:
            yield _block(gathered)
            gathered, size = {}, 0
    if gathered:
        yield _block(gathered)


def _block(runs: dict[str, _Growing]) -> bytes:
    kinds: dict[Kind, int] = {}
    for run in runs.values():
        for kind in run.kinds:
            kinds.setdefault(kind, len(kinds))
    t_min = min(min(run.times) for run in runs.values())
    block = Block(
        t_min,
        list(kinds),
        [
            Run(
                stream,
                run.first_version,
                run.first_offset,
                run.last_offset,
                [kinds[kind] for kind in run.kinds],
                [at - t_min for at in run.times],
                run.bodies,
            )
            for stream, run in runs.items()
        ],
    )
    return _encoder.encode(block)


def difference(runs: Runs, batches: Iterable[Facts]) -> str:
    """How the runs differ from the batches that they are of; empty when they hold the same. Blocking, as `encode_runs`.

    Raises CorruptSegment.
    """
    wanted = _gather(batches)
    if wanted is None:
        return "runs, although a stream's versions leave a gap"
    for block in runs.blocks():
        for run in block.runs:
            own = wanted.pop(run.stream, None)
            if own is None:
                return f"{run.stream}, which is not in its batches, or is there twice"
            if _differ(block, run, own):
                return f"other events of {run.stream} than its batches hold"
    return f"nothing of {next(iter(wanted))}" if wanted else ""


def _differ(block: Block, run: Run, own: _Growing) -> bool:
    place = (run.first_version, run.first_offset, run.last_offset)
    return (
        place != (own.first_version, own.first_offset, own.last_offset)
        or [block.kinds[kind] for kind in run.kinds] != own.kinds
        or [block.t_min + after for after in run.after] != own.times
        or list(map(bytes, run.bodies)) != list(map(bytes, own.bodies))
    )
