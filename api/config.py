"""The operator's configuration: `{data}/config.toml`, overridden by the command line. Knows names and defaults only."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from actors.builder.steps import LONGEST_SECONDS
from actors.cluster.settings import ARTIFACT_SLACK_SECONDS, NODE_LOST_SECONDS
from actors.containers.errors import ContainerFault
from actors.containers.settings import ContainerSettings
from actors.logs.errors import BadQuery
from actors.logs.rules import LinesSettings
from events.log.archive.archiver import RETAIN_S
from events.log.blobs import DEFAULT_REGION, ArchiveSettings
from events.log.embedded import QUOTA_BYTES
from events.log.etcd_connection import EtcdSettings
from events.log.settings import LogSettings


class EtcdConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An etcd of your own; left out, one is started here. Paths name PEM files; the password stands in a file."""

    endpoints: tuple[str, ...]
    ca_path: str | None = None
    cert_path: str | None = None
    key_path: str | None = None
    username: str | None = None
    password_file: str | None = None
    namespace: str = "rayfold"

    def settings(self) -> EtcdSettings:
        """As the log's client wants it."""
        return EtcdSettings(**msgspec.structs.asdict(self))


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The event log. `archive` empty: a directory in the data directory. Sizes in MiB."""

    archive: str = ""
    archive_endpoint: str = ""
    archive_region: str = DEFAULT_REGION
    archive_credentials_file: str = ""
    retain_hours: Annotated[float, msgspec.Meta(ge=0)] = RETAIN_S / 3600
    quota_mib: Annotated[int, msgspec.Meta(ge=16)] = QUOTA_BYTES >> 20

    def settings(self, data: Path) -> LogSettings:
        """For the platform at `data`."""
        archive = ArchiveSettings(
            url=self.archive or str(data / "archive"),
            endpoint=self.archive_endpoint,
            region=self.archive_region,
            credentials_file=self.archive_credentials_file,
        )
        return LogSettings(archive=archive, retain_s=self.retain_hours * 3600, quota_bytes=self.quota_mib << 20)


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)]


class BuildTimeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each step of a build may take, in seconds; 0: its usual share of the whole build's time, and for the
    release command the usual ten minutes."""

    source: _Seconds = 0
    dependencies: _Seconds = 0
    build: _Seconds = 0
    publish: _Seconds = 0
    release: _Seconds = 0


class PlatformConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`etcd` None: embedded. `database_url` empty: SQLite in the data directory. Ports: 0 picks a free one.
    `builds_at_once`: of one node; 0: one per core.

    `ray_address`: the head of a Ray cluster to join, `host:port`; empty: RAY_ADDRESS, which Ray sets for its jobs, and
    without it a Ray of our own.
    """

    etcd: EtcdConfig | None = None
    log: LogConfig = LogConfig()
    lines: LinesSettings = LinesSettings()
    containers: ContainerSettings = ContainerSettings()
    ray_address: str = ""
    database_url: str = ""
    partitions: int | None = None
    bind: str = "127.0.0.1"
    api_port: int | None = None
    gateway_port: int | None = None
    grpc_port: int | None = None
    supervisors: int = 1
    builders: int = 1
    builds_at_once: Annotated[int, msgspec.Meta(ge=0)] = 0
    artifact_slack_seconds: Annotated[float, msgspec.Meta(ge=0)] = ARTIFACT_SLACK_SECONDS
    build_timeouts: BuildTimeouts = BuildTimeouts()
    eventlogs: int = 1
    node_lost_seconds: Annotated[float, msgspec.Meta(ge=1)] = NODE_LOST_SECONDS


class BadConfig(Exception):
    """The configuration file cannot be used; the message says where and what was expected."""


def load_config(data: Path) -> PlatformConfig:
    """The configuration of the platform at `data`; defaults where there is no file. Raises BadConfig."""
    path = data / "config.toml"
    try:
        config = msgspec.convert(tomllib.loads(path.read_text()), PlatformConfig)
        config.lines.check()
        config.containers.check()
        return config
    except FileNotFoundError:
        return PlatformConfig()
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError, BadQuery, ContainerFault) as error:
        raise BadConfig(f"{path}: {error}; see docs/configuration.md") from error
