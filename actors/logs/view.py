"""What readers and senders are told of a stream: its durable segments at one moment, and where a batch landed.

Values only; knows nothing of how a stream is written.
"""

from typing import NamedTuple

import msgspec

from actors.logs.segment import Block, Closed


class StoreLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on disk. A stream keeps at most `stream_bytes` plus one segment; a segment is closed at `segment_bytes`."""

    stream_bytes: int = 256 * 1024 * 1024
    segment_bytes: int = 4 * 1024 * 1024


class Extent(NamedTuple):
    """A segment as far as it is durable: its first number, file (the index, where it is sealed), bytes of lines."""

    first: int
    path: str
    size: int


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader needs of a stream at one moment: durable bytes only, so a number once seen never changes its line.

    `blocks` is the sparse index of the last extent (the others' is read from their headers).
    """

    name: str
    extents: tuple[Extent, ...] = ()
    blocks: tuple[Block, ...] = ()
    next_number: int = 1
    closed: Closed | None = None

    @property
    def first_number(self) -> int:
        """The oldest number still kept."""
        return self.extents[0].first if self.extents else self.next_number


class Appended(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where a batch landed: the numbers `first` … `next_number - 1`. `duplicate`: it had been stored before."""

    first: int
    next_number: int
    duplicate: bool = False
