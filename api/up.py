"""The composition root: starts etcd, Ray and every pool, and keeps them running.

The keeper holds no state and is no part of any request: killed, it leaves everything running, and the next `up` adopts
what it finds. It never talks to Ray itself, whose drivers die with their head.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog

from actors.cluster.identity import Identity, OtherPlatform, identify
from actors.cluster.journal import open_journal
from actors.cluster.pools import Pool, save_pools
from actors.cluster.ray_head import RayNotStarted
from actors.cluster.settings import PlatformSettings, load_settings
from api import place
from api.began import last_errors, serves, waiting
from api.config import BadConfig, PlatformConfig, load_config
from api.down import down, end_keeper, keeper_pid, ray_of
from api.job import import_path, keeper_command
from api.presence import readiness_url, reconciler_lives, runs, tell_where, told_by
from events.log.embedded import EmbeddedEtcd
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.keys import Keys

log = structlog.get_logger("keeper")

READY_SECONDS = 90.0
WATCH_SECONDS = 0.5
HEARTBEAT_GRACE_SECONDS = 2.0  # beyond the lease of the heartbeat; booting once too often harms nothing
# What one actor does before another is worth its memory, for pools that follow their work: see docs/pools.md.
COMMANDS_PER_SECOND = 1_500.0
EVENTS_PER_SECOND = 2_000.0
REQUESTS_PER_SECOND = 500.0
LINES_PER_SECOND = 50_000.0
MOST = 64
WAITING = "not well: "


class NotStarted(Exception):
    """The platform did not start; the message says what failed and where to look."""


def pools(settings: PlatformSettings) -> list[Pool]:
    """Every pool of the platform, the API's own among them."""
    shared = "each has a partition of the log at least"
    return [
        Pool(
            name="eventlog",
            actor="actors.logs.actor:EventlogPartition",
            size=settings.eventlogs,
            most=MOST,
            why_most=f"more than {MOST} are not supported",
            unit=LINES_PER_SECOND,
            drain_seconds=60.0,
            home=True,
        ),
        Pool(
            name="supervisor",
            actor="actors.supervisor.actor:LifecycleSupervisor",
            size=settings.supervisors,
            most=settings.partitions,
            why_most=shared,
            unit=COMMANDS_PER_SECOND,
            shares=True,
        ),
        Pool(
            name="gateway",
            actor="actors.gateway.actor:GatewayNode",
            most=MOST,
            why_most="a machine has one gateway",
            drain_seconds=60.0,  # beyond the time that Envoy gives to what is in flight
            one_a_machine=True,
        ),
        Pool(name="node", actor="actors.node.actor:NodeAgent", per_node=True, why_most="a machine has one agent"),
        Pool(
            name="builder",
            actor="actors.builder.actor:Builder",
            size=settings.builders,
            most=MOST,
            why_most=f"more than {MOST} are not supported",
            unit=float(os.cpu_count() or 1),
            drain_seconds=360.0,
            home=True,
        ),
        Pool(name="archiver", actor="actors.archiver:Archiver", home=True),
        Pool(
            name="projector",
            actor="actors.projector:Projector",
            most=settings.partitions,
            why_most=shared,
            unit=EVENTS_PER_SECOND,
            shares=True,
            home=True,
        ),
        Pool(
            name="api",
            actor="api.http.actor:ApiServer",
            most=MOST,
            why_most=f"more than {MOST} are not supported",
            unit=REQUESTS_PER_SECOND,
            home=True,
        ),
    ]


# --- up ---------------------------------------------------------------------------------------------------------------


def run(*, data: Path, api_port: int | None, gateway_port: int | None, detach: bool) -> int:
    """Start the platform at `data`, or what is missing of it. Returns an exit code; says on stderr what failed."""
    data = data.absolute()
    try:
        place.prepare(data)
        if _runs_already(data):
            print("the platform is running already", file=sys.stderr)
            return 0
        if detach:
            return _detach(data, api_port, gateway_port)
        return asyncio.run(_Keeper(data, api_port, gateway_port).keep())
    except (
        NotStarted, BadConfig, place.PlaceUnusable, OtherPlatform, RayNotStarted, LogError, OSError,
    ) as error:  # fmt: skip
        print(f"rayfold: {error}", file=sys.stderr)
        return 1


def _runs_already(data: Path) -> bool:
    """Whether the platform serves under another keeper, which is given the time of a start to bring it there. One that
    waits for a Ray cluster which has gone, while there is another to join, is ended. Raises NotStarted."""
    deadline = time.monotonic() + READY_SECONDS
    while (keeper := keeper_pid(data)) is not None:
        if asyncio.run(runs(data)):
            return True
        if _waits_in_vain(data, keeper):
            print(f"ending process {keeper}, which waits for a Ray cluster that has gone", file=sys.stderr, flush=True)
            end_keeper(keeper)
        elif time.monotonic() > deadline:
            raise NotStarted(
                f"expected the platform of process {keeper} to answer within {READY_SECONDS:.0f} s, found that it does "
                f"not; look into {data / 'platform'}, or start it anew: rayfold down --keep-apps, then rayfold up"
            )
        time.sleep(WATCH_SECONDS)
    return False


def _waits_in_vain(data: Path, keeper: int) -> bool:
    if not told_by(data, keeper):
        return False  # it is starting, and the settings may be those of the one before
    settings, here = load_settings(data), _joined(load_config(data))
    return (
        settings.ray_joined
        and here not in ("", settings.ray_address)
        and not ray_of(data, settings.ray_address).alive()
    )


def _detach(data: Path, api_port: int | None, gateway_port: int | None) -> int:
    """Start the keeper in a session of its own and wait until the platform is ready."""
    command, environment = keeper_command(data, api_port, gateway_port)
    log = data / "platform" / "up.log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
            env=environment,
        )  # fmt: skip
    began = time.time()
    deadline = time.monotonic() + READY_SECONDS
    while not told_by(data, keeper.pid):
        code = keeper.poll()
        if code is not None or time.monotonic() > deadline:
            found = f"exit code {code}" if code is not None else f"nothing within {READY_SECONDS:.0f} s"
            words = log.read_text(errors="replace").strip()[-2000:]
            print(f"rayfold: expected the platform to become ready, found {found}; {log} says:\n{words}",
                  file=sys.stderr)  # fmt: skip
            for line in last_errors(data / "platform", began):
                print(line, file=sys.stderr)
            return 1
        time.sleep(0.05)
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith(WAITING):
            print(line, file=sys.stderr)
    return 0


class _Keeper:
    """Keeps one platform running until told to stop."""

    def __init__(self, data: Path, api_port: int | None, gateway_port: int | None) -> None:
        self._data = data
        self._ports = (api_port, gateway_port)
        self._config: PlatformConfig = load_config(data)
        self._etcd = (
            EmbeddedEtcd(data, quota_bytes=self._config.log.quota_mib << 20) if self._config.etcd is None else None
        )
        self._joined = _joined(self._config)
        self._ray = ray_of(data, self._joined)

    async def keep(self) -> int:
        """Start everything, then watch over it; a SIGTERM ends only the watch, a SIGINT the platform as well."""
        os.umask(0o077)
        os.environ["PYTHONPATH"] = import_path()
        open_journal(self._data / "platform", "keeper")
        with (self._data / "up.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            told = asyncio.get_running_loop().create_future()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, _tell, told, number)
            settings = await self._started(told)
            if settings is not None:
                print(f"ready: http://{settings.bind}:{settings.api_port}", file=sys.stderr, flush=True)
                await self._watch(settings, told)
        if told.result() == signal.SIGINT:
            await asyncio.to_thread(down, data=self._data, keep_apps=False)
        return 0

    async def _started(self, told: "asyncio.Future[int]") -> PlatformSettings | None:
        """The platform once it is ready. Of a start that fails, or that is `told` to end (None), nothing stays."""
        async with AsyncExitStack() as begun:
            start = asyncio.create_task(self._start(begun))
            either: list[asyncio.Future[Any]] = [start, told]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                await asyncio.wait({start})
            if start.cancelled():
                return None
            settings = start.result()
            begun.pop_all()
            return settings

    async def _start(self, begun: AsyncExitStack) -> PlatformSettings:
        """`begun` gets what undoes each step that starts something."""
        adopts = await asyncio.to_thread(self._ray.alive)
        if self._joined:
            print(f"joining the Ray cluster at {self._joined}", file=sys.stderr, flush=True)
            await asyncio.to_thread(ray_of(self._data, "").stop)  # one of our own, from before, would hold the names
        elif not adopts:
            begun.push_async_callback(asyncio.to_thread, self._ray.stop)
        # Ray takes the longest: it starts beside etcd.
        ray = asyncio.create_task(asyncio.to_thread(self._ray.ensure))
        begun.push_async_callback(asyncio.wait, [ray])  # what is still starting cannot be stopped
        try:
            etcd = await self._etcd_settings(begun)
            settings = place.make_settings(
                self._data, self._config, etcd, api_port=self._ports[0], gateway_port=self._ports[1]
            )
            async with EtcdClient(etcd) as client:
                await _refuse_half_a_log(client)
                lives = await reconciler_lives(client)
                own = Identity(data=settings.data, ray_namespace=settings.ray_namespace)
                own = await identify(client, own, runs=lives)
            settings = msgspec.structs.replace(settings, ray_namespace=own.ray_namespace)
            if self._joined:  # that a cluster answers does not say that our actors are on it
                adopts = lives
            settings = self._ports_in_use(settings) if adopts else self._free_ports(settings)
        finally:
            await asyncio.wait([ray])
        settings = msgspec.structs.replace(settings, ray_address=ray.result(), ray_joined=bool(self._joined))
        await asyncio.to_thread(settings.save)
        await asyncio.to_thread(save_pools, self._data, pools(settings))
        if self._joined and not adopts:
            begun.push_async_callback(asyncio.to_thread, self._ray.stop)
        if not await self._boot():
            raise NotStarted(f"expected every actor to answer within {READY_SECONDS:.0f} s; look into "
                             f"{self._data / 'platform'}")  # fmt: skip
        await self._await_api(settings)
        for words in await asyncio.to_thread(waiting, settings):
            print(f"{WAITING}{words}", file=sys.stderr, flush=True)
        await asyncio.to_thread(tell_where, settings)
        return settings

    async def _etcd_settings(self, begun: AsyncExitStack) -> EtcdSettings:
        if self._etcd is not None:
            if self._etcd.pid is None:
                begun.push_async_callback(self._etcd.stop)
            return await self._etcd.ensure()
        assert self._config.etcd is not None  # noqa: S101 -- one of the two is set
        return self._config.etcd.settings()

    def _free_ports(self, settings: PlatformSettings) -> PlatformSettings:
        problem = place.port_problem(settings.bind, settings.api_port, "--api-port")
        if problem:
            raise NotStarted(problem)
        return settings

    def _ports_in_use(self, settings: PlatformSettings) -> PlatformSettings:
        """The actors that are adopted go on at the ports they have."""
        try:
            last = load_settings(self._data)
        except (FileNotFoundError, msgspec.DecodeError):
            return settings
        kept = ((self._ports[0], last.api_port, "--api-port"), (self._ports[1], last.gateway_port, "--gateway-port"))
        for asked, port, option in kept:
            if asked and asked != port:
                raise NotStarted(f"expected {option} {port}, with which the platform runs, found {asked}; end it "
                                 "first: rayfold down --keep-apps")  # fmt: skip
        return msgspec.structs.replace(
            settings, api_port=last.api_port, gateway_port=last.gateway_port, grpc_port=last.grpc_port
        )

    async def _boot(self) -> bool:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "actors.cluster.boot", str(self._data), str(READY_SECONDS), str(os.getpid()),
            env={**os.environ, **self._ray.environment()}, cwd="/",
        )  # fmt: skip
        try:
            async with asyncio.timeout(READY_SECONDS + 10):
                return await process.wait() == 0
        except TimeoutError:
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _await_api(self, settings: PlatformSettings) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(serves, readiness_url(settings)):
            if time.monotonic() > deadline:
                raise NotStarted(f"expected {readiness_url(settings)} to answer 200; look into "
                                 f"{self._data / 'platform'}")  # fmt: skip
            await asyncio.sleep(WATCH_SECONDS / 5)

    async def _watch(self, settings: PlatformSettings, told: "asyncio.Future[int]") -> None:
        tasks = [asyncio.create_task(self._watch_ray(settings))]
        if self._etcd is not None:
            tasks.append(asyncio.create_task(self._etcd.watch_over()))
        either: list[asyncio.Future[Any]] = [told, *tasks]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_ray(self, settings: PlatformSettings) -> None:
        """Start Ray and the actors again when the head died or the reconciler has gone silent."""
        silent_since: float | None = None
        async with EtcdClient(settings.etcd) as client:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                if not await asyncio.to_thread(self._ray.alive):
                    try:
                        address = await asyncio.to_thread(self._ray.ensure)
                    except RayNotStarted as error:
                        log.error("Ray is away, will be tried again", error=str(error))
                        continue
                    settings = msgspec.structs.replace(settings, ray_address=address)
                    await asyncio.to_thread(settings.save)
                    await self._boot()
                    silent_since = None
                    continue
                if await reconciler_lives(client):
                    silent_since = None
                elif silent_since is None:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > HEARTBEAT_GRACE_SECONDS:
                    await self._boot()
                    silent_since = None


def _joined(config: PlatformConfig) -> str:
    """The Ray cluster to join; empty: one of our own."""
    return config.ray_address or os.environ.get("RAY_ADDRESS", "")


async def _refuse_half_a_log(client: EtcdClient) -> None:
    """Every actor would refuse it too, but only after a minute of trying."""
    if await client.get(Keys(client.settings.namespace).restore) is not None:
        raise NotStarted("expected a whole log, found a restore that has not ended; run it again: rayfold backup "
                         "restore FILE")  # fmt: skip


def _tell(told: "asyncio.Future[int]", number: int) -> None:
    if not told.done():
        told.set_result(number)


if __name__ == "__main__":
    _api, _gateway = (None if int(text) < 0 else int(text) for text in sys.argv[2:4])
    sys.exit(run(data=Path(sys.argv[1]), api_port=_api, gateway_port=_gateway, detach=False))
