"""Takes a platform down, or all of it but its applications. Knows what runs and how it ends, not how it starts."""

import asyncio
import fcntl
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from actors.cluster.ray_head import RayHead
from actors.cluster.ray_joined import JoinedRay
from actors.cluster.settings import PlatformSettings, load_settings
from api import place
from events.log.embedded import EmbeddedEtcd

STOP_SECONDS = 20.0
PROJECT = Path(__file__).resolve().parent.parent


def down(*, data: Path, keep_apps: bool) -> int:
    """Stop the platform at `data`; with `keep_apps` its instances and the gateway's proxy go on, as those of other
    machines do in any case."""
    data = data.absolute()
    try:
        settings = load_settings(data)
    except FileNotFoundError:
        print(f"rayfold: expected a platform at {data}, found none; name another with --data", file=sys.stderr)
        return 3
    keeper = keeper_pid(data)
    if keeper is not None and keeper != os.getpid():
        end_keeper(keeper)
    (data / "api.json").unlink(missing_ok=True)
    ray_of(data, settings.ray_address if settings.ray_joined else "").stop()
    if not keep_apps:
        asyncio.run(_stop_apps(settings))
    asyncio.run(EmbeddedEtcd(data).stop())
    shutil.rmtree(data / "code", ignore_errors=True)  # what jobs brought, and now nobody runs
    return 0


def end_keeper(pid: int) -> None:
    """End the watch over a platform, or its start; by force after 20 s. What the keeper had started ends with it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                process.kill()
                break
            time.sleep(0.05)


async def _stop_apps(settings: PlatformSettings) -> None:
    from actors.gateway.envoy import EnvoyProcess, EnvoySettings
    from actors.node.runtime import process_runtime
    from actors.runtime.containers import Containers

    if settings.gateway_dir.is_dir():
        envoy = EnvoyProcess(
            EnvoySettings(run_dir=settings.gateway_dir, log_file=settings.envoy_log, node_id="gateway-0")
        )
        await envoy.stop()
    engine, root = settings.containers.engine, settings.node_root_dir
    runtime = process_runtime(settings, Containers(engine, root) if engine else None)
    instances = await runtime.open()
    await asyncio.gather(*(runtime.stop(i.instance_id) for i in instances), return_exceptions=True)
    await runtime.close()


def keeper_pid(data: Path) -> int | None:
    """The keeper's process id when one holds the lock."""
    try:
        with (data / "up.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0) or None
            return None
    except FileNotFoundError:
        return None


def ray_of(data: Path, joined: str) -> RayHead | JoinedRay:
    """The Ray cluster at the address `joined`, else one of our own."""
    if joined:
        return JoinedRay(address=joined, data=data, import_path=PROJECT)
    return RayHead(state_dir=data / "ray", temp_dir=place.run_dir(data) / "ray", import_path=PROJECT)
