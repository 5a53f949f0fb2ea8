"""What the HTTP interface stands on, handed to `create_app` by whoever starts the platform.

Ports and values only; nothing here knows of HTTP.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.archiver import LogReport
from actors.builder.retention import Swept
from actors.cluster.sizes import PoolReport
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import LogLine
from actors.logs.query import StreamStats
from actors.logs.totals import StoreTotals
from actors.ports import CommandPort
from api.http.schema_platform import CheckView
from events.log.archive.manifest import SegmentManifest
from events.log.port import EventLog
from events.log.verify import VerifiableLog
from events.model.parked import ParkedState
from events.queue.port import TaskQueue
from events.secrets.keyring import Keyring
from projections.database import Database

MIB = 1024 * 1024
DEFAULT_UPLOAD_BYTES = 512 * MIB


class PlatformAway(Exception):
    """A part of the platform that was asked did not answer; try again later."""


class LogReads(Protocol):
    """Log lines by stream: a component's service id, or `build/<build_id>`."""

    async def query(self, query: Query) -> QueryResult:
        """One answer. Raises actors.logs.errors.LogError."""
        ...

    async def stats(self, stream: str, *, since: int = 0, until: int = 0, team: str = "") -> StreamStats:
        """Counts of its lines between two times, unix microseconds. Raises actors.logs.errors.LogError."""
        ...

    async def totals(self) -> StoreTotals:
        """Counts of every stream since the log servers started. Raises actors.logs.errors.LogError."""
        ...

    def tail(
        self, stream: str, from_number: int | None = None, flt: LineFilter | None = None
    ) -> AsyncIterator[list[LogLine]]:
        """Lines from that number on (None: from now on), for ever or until a finite stream has ended."""
        ...


class Platform(Protocol):
    """What the API may ask of the running platform itself. Raises PlatformAway."""

    async def checks(self) -> Sequence[CheckView]:
        """What readiness depends on beyond the log and the database, and how it is."""
        ...

    async def pools(self) -> Sequence[PoolReport]:
        """Every pool of actors."""
        ...

    async def parked(self) -> Sequence[ParkedState]:
        """What supervisors have set aside."""
        ...

    async def log_report(self) -> LogReport:
        """How the event log is kept, in etcd and in its archive."""
        ...

    async def archive_log(
        self, partitions: Sequence[int], *, everything: bool
    ) -> Sequence[tuple[int, SegmentManifest]]:
        """Archive now what may go of these partitions: (partition, segment) each. Raises LogError."""
        ...

    async def sweep_artifacts(self) -> Swept:
        """Have removed from disk now what no release, no build and no cached layer refers to."""
        ...

    async def rebuild_projection(self, name: str) -> bool:
        """Have a read model deleted and folded again; False when there is none of that name."""
        ...

    async def retry_projection(self, name: str, stream: str) -> str | None:
        """Have folded what waits in a stream that a read model has set aside; returns why it still is, "" when it is
        not, None when no projector has it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything `create_app` needs.

    `stored`: the log as it is kept, for its verification; `gateway_port`: where this machine's browser reaches the
    gateway (0: not known yet); `artifacts`: the directory of what builds made; `repositories`: of what is pushed to;
    `uploads`: of sources, by sha256;
    `registry`: the platform's own, for images (host:port/prefix, empty: none).
    """

    commands: CommandPort
    log: EventLog
    stored: VerifiableLog
    database: Database
    logs: LogReads
    keyring: Keyring
    master_key_file: Path
    platform: Platform
    queue: TaskQueue
    uploads: Path
    artifacts: Path
    repositories: Path
    admin_token: str
    gateway_port: Callable[[], int]
    version: str
    registry: str = ""
    upload_bytes: int = DEFAULT_UPLOAD_BYTES
