"""Lays out a platform's directories, tokens and ports before anything starts. Knows paths and modes, no processes."""

import hashlib
import os
import secrets
import socket
from pathlib import Path

import msgspec

from actors.cluster.settings import (
    DEFAULT_API_PORT,
    DEFAULT_GATEWAY_PORT,
    EMBEDDED_PARTITIONS,
    MASTER_KEY_FILE,
    PlatformSettings,
    load_settings,
)
from api.config import PlatformConfig
from events.log.blobs import open_blobs
from events.log.etcd_connection import EtcdSettings
from events.secrets.master import ensure_master_file

LONGEST_RUN_PATH = 38  # Ray's socket paths add 66 bytes to it, and a unix socket's path has at most 107
PRIVATE = (
    "etcd", "pki", "ray", "sql", "uploads", "artifacts", "cache", "logs", "tokens", "platform", "orders", "archive",
)  # fmt: skip


BROUGHT = ("config.toml", MASTER_KEY_FILE, "tokens", "logs", "uploads")
"""What a person puts beside a log that is to be restored."""
NO_MATTER = ("etcd", "pki", "ray", "cache", "platform", "run")
"""What says nothing of what is restored, or, as etcd, is looked into by itself."""


class PlaceUnusable(Exception):
    """The platform cannot live there; the message says what was expected, what was found and what to do."""


def prepare(data: Path) -> None:
    """Make the data directory and everything private in it. As root others may pass through it, and read nothing."""
    data.mkdir(parents=True, exist_ok=True)
    if data.stat().st_uid != os.geteuid():
        raise PlaceUnusable(f"expected {data} to belong to user {os.geteuid()}, found {data.stat().st_uid}; use --data")
    data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for name in PRIVATE:
        directory = data / name
        directory.mkdir(exist_ok=True)
        directory.chmod(0o700)
    for name in ("admin", "logs"):
        _ensure_token(data / "tokens" / name)
    ensure_master_file(data / MASTER_KEY_FILE)
    node_root(data).mkdir(parents=True, exist_ok=True)
    node_root(data).chmod(0o711)


def in_the_way(data: Path, beside: Path | None = None) -> Path | None:
    """The first thing in `data` that belongs to another platform, or to none: a log is restored where nothing is but
    what is brought along. `beside`: a file that the configuration names. Directories without files are nothing."""
    if not data.is_dir():
        return None
    for entry in sorted(data.iterdir()):
        if entry.name in (*BROUGHT, *NO_MATTER) or entry == beside:
            continue
        files = sorted(path for path in entry.rglob("*") if not path.is_dir()) if entry.is_dir() else [entry]
        if files:
            return files[0]
    return None


def _ensure_token(path: Path) -> None:
    if not path.exists():
        new = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")  # 256 random bits
        try:
            path.hardlink_to(new)  # never half a token, and the first of two makers wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
    path.chmod(0o600)


def node_root(data: Path) -> Path:
    """Where instances and builds live: in the data directory, unless other users cannot get through to it."""
    inside = data / "node"
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in data.parents):
        return inside
    return Path("/var/lib/rayfold-nodes") / _mark(data)


def run_dir(data: Path) -> Path:
    """Where unix sockets live: in the data directory if its path is short enough, else a private one under /tmp."""
    inside = data / "run"
    path = inside if len(str(inside)) <= LONGEST_RUN_PATH else Path("/tmp") / f"rayfold-{os.geteuid()}-{_mark(data)}"  # noqa: S108
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.geteuid() or not path.is_dir() or path.is_symlink():
        raise PlaceUnusable(f"expected {path} to be a directory of user {os.geteuid()}; remove it and try again")
    path.chmod(0o700)
    return path


def _mark(data: Path) -> str:
    return hashlib.blake2b(str(data).encode(), digest_size=4).hexdigest()


def make_settings(
    data: Path, config: PlatformConfig, etcd: EtcdSettings, *, api_port: int | None, gateway_port: int | None
) -> PlatformSettings:
    """The settings of the platform at `data`. Ports: the command line's, else the configuration's, else the last."""
    try:
        last: PlatformSettings | None = load_settings(data)
    except (FileNotFoundError, msgspec.DecodeError):
        last = None
    api = _first(api_port, config.api_port, last.api_port if last else None, DEFAULT_API_PORT)
    gateway = _first(gateway_port, config.gateway_port, last.gateway_port if last else None, DEFAULT_GATEWAY_PORT)
    log = config.log.settings(data)
    try:
        open_blobs(log.archive)
    except ValueError as error:
        raise PlaceUnusable(f"{error}; see [log] in {data / 'config.toml'}") from None
    return PlatformSettings(
        data=str(data),
        run=str(run_dir(data)),
        node_root=str(node_root(data)),
        node=last.node if last else _node_name(),
        ray_namespace=last.ray_namespace if last else f"rayfold-{secrets.token_hex(4)}",
        etcd=etcd,
        database_url=config.database_url or f"sqlite:///{data / 'sql' / 'rayfold.db'}",
        partitions=config.partitions or EMBEDDED_PARTITIONS,
        bind=config.bind,
        api_port=api or free_port(config.bind),
        gateway_port=gateway or free_port(config.bind),
        grpc_port=config.grpc_port or (last.grpc_port if last else 0) or free_port(config.bind),
        supervisors=config.supervisors,
        builders=config.builders,
        builds_at_once=config.builds_at_once,
        artifact_slack_seconds=config.artifact_slack_seconds,
        build_step_seconds={k: v for k, v in msgspec.structs.asdict(config.build_timeouts).items() if v},
        eventlogs=config.eventlogs,
        node_lost_seconds=config.node_lost_seconds,
        log=log,
        lines=config.lines,
        containers=config.containers,
    )


def _first(*ports: int | None) -> int:
    return next(port for port in ports if port is not None)


def _node_name() -> str:
    name = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")
    return name[:40] or "node"


def free_port(bind: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((bind, 0))
        return int(probe.getsockname()[1])


def port_problem(bind: str, port: int, option: str) -> str | None:
    """None when `port` can be listened on; else what to do about it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            return f"expected port {port} of {bind} to be free, found: {error.strerror}; choose another with {option}"
    return None
