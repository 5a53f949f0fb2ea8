"""A snapshot's bytes: what a partition's next owner would otherwise learn by folding its log from the first event.

Knows states as opaque MessagePack, commands and the chain; nothing of where the bytes are kept or what states mean.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec
import zstandard

FORMAT = 1
_MAGIC = b"RFN1"
_PREFIX = struct.Struct(">4sI")  # magic, length of the header

_STREAMS_A_BLOCK = 128
_COMMANDS_A_BLOCK = 8192
"""Blocks are coded one call each, of some ms: the interpreter is free for the event loop in between."""

_T = TypeVar("_T")


class CorruptSnapshot(Exception):
    """The bytes are no whole snapshot. Never fatal: the log is folded instead."""


class StreamEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One stream after `version` events, the last of them at `last_offset`. `state`: its state's own MessagePack."""

    stream: str
    version: int
    last_offset: int
    state: msgspec.Raw


class CommandEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One remembered command: its first and last offset, and its last version."""

    command_id: str
    first: int
    last: int
    version: int


class SnapshotHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot covers: the states are after every event below `offset`.

    `fingerprint` is that of the fold which made the states. The commands are those of every batch below `base`, a
    batch's boundary at or before `offset`; `last_base` is where the batch before it begins and `last_hash` the hash of
    its stored value (None and empty while `base` is 0). `taken_at`: microseconds UTC.
    """

    partition: int
    offset: int
    base: int
    last_base: int | None
    last_hash: bytes
    fingerprint: str
    taken_at: int


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The header as stored. Block lengths are of compressed bytes."""

    format: int
    head: SnapshotHead
    streams: list[int]
    commands: list[int]


class _Format(msgspec.Struct):
    """The one field that every format has."""

    format: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An opened snapshot; its blocks are decoded as they are asked for, which takes some ms each: use a thread."""

    head: SnapshotHead
    stream_blocks: Sequence[memoryview]
    command_blocks: Sequence[memoryview]

    def streams(self) -> Iterator[list[StreamEntry]]:
        """Every stream, in lists. Raises CorruptSnapshot."""
        return _decoded(self.stream_blocks, msgspec.msgpack.Decoder(list[StreamEntry]))

    def commands(self) -> Iterator[list[CommandEntry]]:
        """Every remembered command, the oldest first, in lists. Raises CorruptSnapshot."""
        return _decoded(self.command_blocks, msgspec.msgpack.Decoder(list[CommandEntry]))


def encode_snapshot(head: SnapshotHead, streams: Iterable[StreamEntry], commands: Iterable[CommandEntry]) -> bytes:
    """The bytes of a snapshot. `streams` is asked for one block at a time: at most one is in memory unpacked."""
    stream_blocks = _blocks(streams, _STREAMS_A_BLOCK)
    command_blocks = _blocks(commands, _COMMANDS_A_BLOCK)
    stored = _Stored(
        format=FORMAT, head=head, streams=list(map(len, stream_blocks)), commands=list(map(len, command_blocks))
    )
    header = msgspec.msgpack.encode(stored)
    return b"".join((_PREFIX.pack(_MAGIC, len(header)), header, *stream_blocks, *command_blocks))


def open_snapshot(data: bytes) -> Snapshot:
    """Read the header and find the blocks. Raises CorruptSnapshot, also for another format. `data` is trusted to be
    what was written: whoever keeps it compares its hash."""
    view = memoryview(data)
    try:
        magic, length = _PREFIX.unpack_from(view)
        if magic != _MAGIC:
            raise CorruptSnapshot(f"expected it to begin with {_MAGIC!r}, found {magic!r}")
        header = view[_PREFIX.size : _PREFIX.size + length]
        found = msgspec.msgpack.decode(header, type=_Format).format
        if found != FORMAT:
            raise CorruptSnapshot(f"expected format {FORMAT}, found {found}")
        stored = msgspec.msgpack.decode(header, type=_Stored)
    except (struct.error, msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptSnapshot(f"its header cannot be decoded: {error}") from error
    at = _PREFIX.size + length
    if at + sum(stored.streams) + sum(stored.commands) != len(data):
        raise CorruptSnapshot(f"expected blocks up to byte {len(data)}, found {stored.streams} and {stored.commands}")
    blocks: list[memoryview] = []
    for size in (*stored.streams, *stored.commands):
        blocks.append(view[at : at + size])
        at += size
    split = len(stored.streams)
    return Snapshot(head=stored.head, stream_blocks=blocks[:split], command_blocks=blocks[split:])


def sha256_of(data: bytes) -> str:
    """In hex. Blocking, some ms per MiB, but it lets other threads run."""
    return hashlib.sha256(data).hexdigest()


def _blocks(items: Iterable[msgspec.Struct], size: int) -> list[bytes]:
    # A compressor must not be used by two threads at once, so each snapshot has its own.
    compressor = zstandard.ZstdCompressor(level=1)
    encoder = msgspec.msgpack.Encoder()
    remaining = iter(items)
    blocks: list[bytes] = []
    while block := list(islice(remaining, size)):
        blocks.append(compressor.compress(encoder.encode(block)))
    return blocks


def _decoded(blocks: Sequence[memoryview], decoder: "msgspec.msgpack.Decoder[list[_T]]") -> Iterator[list[_T]]:
    decompressor = zstandard.ZstdDecompressor()
    for block in blocks:
        try:
            yield decoder.decode(decompressor.decompress(block))
        except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError) as error:
            raise CorruptSnapshot(f"a block cannot be decoded: {error}") from error
