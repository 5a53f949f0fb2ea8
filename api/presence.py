"""Whether a platform is there: what its keeper told in `api.json`, its reconciler's heartbeat, where its API answers.

Starts nothing.
"""

import os
from pathlib import Path

import msgspec

from actors.cluster.reconciler import heartbeat_key
from actors.cluster.settings import PlatformSettings
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line reads in `api.json`."""

    url: str
    gateway_url: str
    gateway_port: int
    pid: int
    grpc: str = ""
    """host:port of the task queue for programs."""


def tell_where(settings: PlatformSettings) -> None:
    """Leave `api.json` for the command line, all or nothing."""
    where = _Told(
        url=f"http://{settings.bind}:{settings.api_port}",
        gateway_url=f"http://{settings.bind}:{settings.gateway_port}",
        gateway_port=settings.gateway_port,
        grpc=f"{settings.bind}:{settings.grpc_port}",
        pid=os.getpid(),
    )
    path = settings.data_dir / "api.json"
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(where))
    draft.replace(path)


def told_by(data: Path, pid: int) -> bool:
    """Whether this keeper has said where the platform is; what an earlier one said stands until then."""
    try:
        return msgspec.json.decode((data / "api.json").read_bytes(), type=_Told).pid == pid
    except (FileNotFoundError, msgspec.DecodeError):
        return False


async def reconciler_lives(client: EtcdClient) -> bool:
    """Whether the reconciler is there, as far as can be known."""
    try:
        return await client.get(heartbeat_key(client.settings.namespace)) is not None
    except LogError:
        return True  # etcd is away: that says nothing about the reconciler


def readiness_url(settings: PlatformSettings) -> str:
    """Where the API says whether it is ready."""
    return f"http://{settings.bind}:{settings.api_port}/readyz"
