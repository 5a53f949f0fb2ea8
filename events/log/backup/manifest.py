"""What a backup says of itself: its list of members, and of each partition what a restore must put where.

Knows the shape only; nothing of the file it stands in.
"""

import msgspec

from events.log.archive.manifest import SegmentManifest
from events.log.chain import Head
from events.log.etcd_log import LogLayout

FORMAT = 1


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One stored piece of the file; `sha256` in hex."""

    name: str
    bytes: int
    sha256: str


class PartitionPart(msgspec.Struct, frozen=True, kw_only=True):
    """A partition up to its head: segments, whose members bear their locations' names, then the last batch by itself.

    `last_base` is None where the partition is empty. `epoch_revision` is etcd's, of the fence when it was read.
    """

    head: Head
    last_base: int | None
    epoch: int
    epoch_revision: int
    segments: tuple[SegmentManifest, ...]


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`created_at` in microseconds; `revision` is etcd's at which the tails were read.

    `keys` are small keys below the namespace (teams' wrapped keys), each the name of its member after `etcd/`;
    `trees` the directories of files that were taken along, each the first word of its members' names.
    """

    format: int
    created_at: int
    namespace: str
    revision: int
    layout: LogLayout
    partitions: tuple[PartitionPart, ...]
    keys: tuple[str, ...]
    trees: tuple[str, ...]
    members: tuple[Member, ...]

    @property
    def events(self) -> int:
        """Events in it, all partitions together."""
        return sum(part.head.offset for part in self.partitions)


def last_member(partition: int, base: int) -> str:
    """The member that holds a partition's last batch."""
    return f"last/{partition:02d}/{base:016x}"


def key_member(name: str) -> str:
    """The member that holds a small key's value."""
    return f"etcd/{name}"
