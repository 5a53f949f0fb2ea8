"""What etcd keeps of an archived segment, and the mark below which a partition's events are in segments only.

Knows these two values and their encoding; nothing of blobs, of batches, or of who writes them.
"""

from typing import TypeVar

import msgspec

from events.log.errors import LogBroken

_T = TypeVar("_T", bound=msgspec.Struct)


class SegmentManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable segment: the events of a partition with offsets in [base, end). JSON in etcd.

    `location` is its blob's name and `sha256` the hash of the whole blob (hex); `bytes` its size. Times are
    microseconds, the least and the greatest `at` of its events. `first_previous` and `last_hash` (hex) are the chain's
    links into and out of it: the first batch's `previous`, and the hash of the last batch's stored value.
    """

    base: int
    end: int
    location: str
    sha256: str
    bytes: int
    events: int
    t_min: int
    t_max: int
    first_previous: str
    last_hash: str


class LowMark(msgspec.Struct, frozen=True, kw_only=True):
    """`first_hot`: every batch from this base on is hot. Below it everything is archived, and may be hot still.

    `archived_through` is the last archived offset, `first_hot - 1`; -1 while nothing is archived.
    """

    first_hot: int = 0
    archived_through: int = -1


def encode(record: SegmentManifest | LowMark) -> bytes:
    return msgspec.json.encode(record)


def decode_manifest(value: bytes, key: str) -> SegmentManifest:
    """Raises LogBroken naming `key`."""
    return _decode(value, key, SegmentManifest)


def decode_low(value: bytes | None, key: str) -> LowMark:
    """The mark of a partition; that of one never archived if there is none. Raises LogBroken naming `key`."""
    return LowMark() if value is None else _decode(value, key, LowMark)


def _decode(value: bytes, key: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise LogBroken(f"{key}: expected a {kind.__name__}, found {value[:200]!r}: {error}") from error
