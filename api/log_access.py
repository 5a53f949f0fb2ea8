"""Opens the log of a data directory for tools that need no platform: backup, restore, verification.

Starts the embedded etcd when it does not run, and stops it again. Must not know what is done with the log.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from api import place
from api.config import PlatformConfig, load_config
from events.log.blobs import BlobStore, open_blobs
from events.log.embedded import EmbeddedEtcd
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings


class NoLogHere(Exception):
    """The data directory holds no log and names no etcd; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class LogAccess:
    """A connected client and the archive beside it."""

    client: EtcdClient
    blobs: BlobStore


@contextlib.asynccontextmanager
async def open_log(data: Path, *, make: bool = False) -> AsyncIterator[LogAccess]:
    """The log of the platform at `data`, running or not. `make`: lay the directory out where there is none.

    Raises NoLogHere, BadConfig, place.PlaceUnusable, EtcdStartFailed, LogUnavailable.
    """
    config = await asyncio.to_thread(load_config, data)
    if make:
        await asyncio.to_thread(place.prepare, data)
    elif config.etcd is None and not await asyncio.to_thread((data / "etcd" / "data").is_dir):
        raise NoLogHere(
            f"expected a platform's data directory, found no etcd/data in {data}; name it with --data DIR, or its etcd "
            "in config.toml"
        )
    blobs = await asyncio.to_thread(open_blobs, config.log.settings(data).archive)
    async with _etcd(data, config) as settings, EtcdClient(settings) as client:
        yield LogAccess(client=client, blobs=blobs)


@contextlib.asynccontextmanager
async def _etcd(data: Path, config: PlatformConfig) -> AsyncIterator[EtcdSettings]:
    if config.etcd is not None:
        yield config.etcd.settings()
        return
    etcd = EmbeddedEtcd(data, quota_bytes=config.log.settings(data).quota_bytes)
    ran = await asyncio.to_thread(lambda: etcd.pid) is not None
    try:
        yield await etcd.ensure()
    finally:
        if not ran:
            await etcd.stop()
