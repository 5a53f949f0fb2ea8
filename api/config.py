"""The operator's configuration: `{data}/config.toml`, overridden by the command line. Knows names and defaults only."""

import tomllib
from pathlib import Path

import msgspec

from events.log.etcd_connection import EtcdSettings


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


class PlatformConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`etcd` None: embedded. `database_url` empty: SQLite in the data directory. Ports: 0 picks a free one."""

    etcd: EtcdConfig | None = None
    database_url: str = ""
    partitions: int | None = None
    bind: str = "127.0.0.1"
    api_port: int | None = None
    gateway_port: int | None = None
    supervisors: int = 1
    builders: int = 1


class BadConfig(Exception):
    """The configuration file cannot be used; the message says where and what was expected."""


def load_config(data: Path) -> PlatformConfig:
    """The configuration of the platform at `data`; defaults where there is no file. Raises BadConfig."""
    path = data / "config.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), PlatformConfig)
    except FileNotFoundError:
        return PlatformConfig()
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: {error}; see docs/configuration.md") from error
