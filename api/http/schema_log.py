"""The bodies that tell how the event log is kept: its space in etcd, and each partition's hot and archived events.

Shapes only, as in `schema`; it knows nothing of how a request is served.
"""

from datetime import datetime

from pydantic import Field

from api.http.schema import Body, Reason, View


class MemberView(View):
    """One member of etcd. `in_use_bytes` leaves out pages that were freed and will be used again."""

    endpoint: str
    version: str
    leads: bool
    file_bytes: int
    in_use_bytes: int


class SpaceView(View):
    """etcd's quota and what is used of it on the fullest member; shares from 0 to 1. `refusing`: appends get 507."""

    quota_bytes: int
    in_use_bytes: int
    file_bytes: int
    share: float
    archive_from_share: float
    refuse_from_share: float
    refusing: bool
    members: list[MemberView]


class PartitionView(View):
    """`tail` is the next event's offset; events below `first_hot` are in segments only. Bytes as stored."""

    partition: int
    tail: int
    first_hot: int
    archived_through: int | None
    hot_batches: int
    hot_bytes: int
    hot_events: int
    segments: int
    segment_bytes: int
    snapshot_offset: int | None
    owner: str | None
    epoch: int | None


class LogView(View):
    """`trouble`: what keeps the archive from its work, empty if nothing does."""

    archive: str
    space: SpaceView
    trouble: str
    last_archived_at: datetime | None
    last_compacted_at: datetime | None
    last_defragmented_at: datetime | None
    partitions: list[PartitionView]


class ArchiveLog(Body):
    """`partition` null: every one. `all`: also what is young, but never a partition's last batch."""

    partition: int | None = Field(default=None, ge=0, le=4095)
    all: bool = False
    reason: Reason = ""


class SegmentView(View):
    """Events with offsets from `base` to `end - 1`, now in the archive."""

    partition: int
    base: int
    end: int
    events: int
    bytes: int
    location: str
    sha256: str


class Archived(View):
    segments: list[SegmentView]
