"""What every process of one platform must know: where its data is, which ports it uses, how to reach etcd.

Written once by `rayfold up` as `{data}/platform.json` and handed to each actor; knows nothing of what they do with it.
"""

import os
from pathlib import Path

import msgspec

from actors.containers.settings import ContainerSettings
from actors.logs.rules import LinesSettings
from events.log.blobs import ArchiveSettings
from events.log.etcd_connection import EtcdSettings
from events.log.settings import LogSettings

EMBEDDED_PARTITIONS = 16
DEFAULT_API_PORT = 8500
DEFAULT_GATEWAY_PORT = 8080
NODE_LOST_SECONDS = 60.0  # beyond its lease: how long a silent node keeps what was given to it
ARTIFACT_SLACK_SECONDS = 600.0  # by which what is removed must be older than all that might refer to it
MASTER_KEY_FILE = "master.key"


class PlatformSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. `run` holds unix sockets and is short and 0700; `node_root` can be passed by every user.

    `node_home`: of an agent away from home, where it keeps what belongs to its machine alone; empty: in `data`.
    `ray_joined`: the Ray at `ray_address` is somebody else's cluster, which we neither start nor stop.
    """

    data: str
    run: str
    node_root: str
    node: str
    etcd: EtcdSettings
    database_url: str
    partitions: int = EMBEDDED_PARTITIONS
    bind: str = "127.0.0.1"
    api_port: int = DEFAULT_API_PORT
    gateway_port: int = DEFAULT_GATEWAY_PORT
    grpc_port: int = 0
    """Of the task queue for programs; 0 in settings that an older version wrote."""
    ray_address: str = ""
    ray_joined: bool = False
    ray_namespace: str = "rayfold"
    """Where its actors have their names; see actors.cluster.identity. The default is that of older versions."""
    supervisors: int = 1
    builders: int = 1
    builds_at_once: int = 0
    """Of one node; 0: one per core."""
    artifact_slack_seconds: float = ARTIFACT_SLACK_SECONDS
    build_step_seconds: dict[str, float] = {}
    eventlogs: int = 1
    node_lost_seconds: float = NODE_LOST_SECONDS
    node_labels: dict[str, str] = {}
    node_home: str = ""
    log: LogSettings | None = None
    lines: LinesSettings = LinesSettings()
    containers: ContainerSettings = ContainerSettings()

    @property
    def log_settings(self) -> LogSettings:
        """What was decided about the log; kept in the data directory where nothing was."""
        return self.log or default_log_settings(self.data_dir)

    @property
    def data_dir(self) -> Path:
        return Path(self.data)

    @property
    def run_dir(self) -> Path:
        return Path(self.run)

    @property
    def node_root_dir(self) -> Path:
        return Path(self.node_root)

    @property
    def reached_at(self) -> str:
        """The home machine's address in the network of the others: what is bound to all addresses is found there."""
        wildcard = self.bind in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        return self.ray_address.rpartition(":")[0] if wildcard and self.ray_address else self.bind

    @property
    def node_home_dir(self) -> Path:
        """What an agent keeps of its own machine's instances."""
        return Path(self.node_home or self.data)

    @property
    def node_run_dir(self) -> Path:
        """The unix sockets of this machine's instances."""
        return self.node_home_dir / "run" if self.node_home else self.run_dir / "node"

    @property
    def runs_as_root(self) -> bool:
        """Whether every application gets a user of its own."""
        return os.geteuid() == 0

    @property
    def uploads(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def artifacts(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def repositories(self) -> Path:
        """What is pushed to with git."""
        return self.data_dir / "git"

    @property
    def admin_token_file(self) -> Path:
        return self.data_dir / "tokens" / "admin"

    @property
    def master_key_file(self) -> Path:
        """What opens the teams' data keys; machines that run supervisors or the API need the same file here."""
        return self.data_dir / MASTER_KEY_FILE

    @property
    def log_token_file(self) -> Path:
        return self.data_dir / "tokens" / "logs"

    @property
    def eventlog_addresses(self) -> Path:
        """Where the members of the eventlog pool leave their addresses, and meet."""
        return self.run_dir / "eventlog"

    @property
    def gateway_dir(self) -> Path:
        """The unix sockets of this machine's gateway; away from home all that it keeps."""
        return (self.node_home_dir if self.node_home else self.run_dir) / "gateway"

    @property
    def access_log(self) -> Path:
        """Of this machine's gateway."""
        return (self.gateway_dir if self.node_home else self.data_dir / "logs") / "access" / "gateway.log"

    @property
    def envoy_log(self) -> Path:
        return (self.gateway_dir if self.node_home else self.platform_logs) / "envoy.log"

    @property
    def platform_logs(self) -> Path:
        return self.data_dir / "platform"

    def save(self) -> None:
        """Write `{data}/platform.json`, all or nothing."""
        path = settings_path(self.data_dir)
        draft = path.with_suffix(".draft")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))
        draft.replace(path)


def default_log_settings(data: Path) -> LogSettings:
    """The archive in the data directory: good for one machine."""
    return LogSettings(archive=ArchiveSettings(url=str(data / "archive")))


def settings_path(data: Path) -> Path:
    """Where a platform's settings are kept."""
    return data / "platform.json"


def load_settings(data: Path) -> PlatformSettings:
    """The settings of the platform at `data`. Raises FileNotFoundError where there never was one."""
    return msgspec.json.decode(settings_path(data).read_bytes(), type=PlatformSettings)


def default_data_dir() -> Path:
    """`RAYFOLD_DATA`, else /var/lib/rayfold for root, else the user's own data directory."""
    if named := os.environ.get("RAYFOLD_DATA"):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/rayfold")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "rayfold"
