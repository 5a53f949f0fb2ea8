"""Whether a platform is there: what its keeper told in `api.json`, its reconciler's heartbeat, where its API answers.

Starts nothing.
"""

import asyncio
import os
from pathlib import Path

import msgspec

from actors.cluster.reconciler import heartbeat_key
from actors.cluster.settings import PlatformSettings, load_settings
from api.began import serves
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient

LOOK_SECONDS = 10.0  # for one look at everything; a client of etcd may wait longer for an answer


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


async def runs(data: Path) -> bool:
    """Whether the platform at `data` serves now: its reconciler is there, and its API is ready."""
    try:
        settings = load_settings(data)
        async with asyncio.timeout(LOOK_SECONDS), EtcdClient(settings.etcd) as client:
            if await client.get(heartbeat_key(settings.etcd.namespace)) is None:
                return False
    except (FileNotFoundError, msgspec.DecodeError, LogError, TimeoutError):
        return False
    return await asyncio.to_thread(serves, readiness_url(settings))


async def reconciler_lives(client: EtcdClient) -> bool:
    """Whether the reconciler is there, as far as can be known."""
    try:
        return await client.get(heartbeat_key(client.settings.namespace)) is not None
    except LogError:
        return True  # etcd is away: that says nothing about the reconciler


def readiness_url(settings: PlatformSettings) -> str:
    """Where the API says whether it is ready."""
    return f"http://{settings.bind}:{settings.api_port}/readyz"
