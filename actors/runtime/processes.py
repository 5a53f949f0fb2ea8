"""The `Runtime` of plain processes: one directory, port, process group and shim per instance, on this machine.

Knows nothing of events, releases or Ray; it may be killed at any line, and the next one opened here adopts what runs.

How sharply the limits hold: memory is resident memory of all the instance's processes, shared pages counted once,
looked at by the shim every 0.25 s and every 0.1 s from half the limit on, over it means SIGKILL and `memory_limit`; a
burst between two looks is bounded by RLIMIT_DATA (4 x the limit, at least limit + 2 GiB). Open files are RLIMIT_NOFILE
of each process. Processes and threads are RLIMIT_NPROC of the application's user (the limit times its instances here);
where the platform is not root and shares its user, the shim counts them and kills over the limit (`process_limit`).

The working directory is the artifact itself, shared and read-only (as root; elsewhere only by agreement): nothing is
copied for a start, so rollbacks cost nothing. What an instance writes goes to HOME and TMPDIR and goes with it.

An instance of an image is a container, and the process that the shim keeps for it is its attendant (attend.py): the
limits are the engine's, the port is published, and the container is gone before its end is told.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from actors.containers.errors import ContainerFault
from actors.runtime import output, shim_client
from actors.runtime.changes import Changes
from actors.runtime.containers import Containers
from actors.runtime.errors import InstanceNotFound, InstanceStillRunning, RuntimeFault, StartFailed
from actors.runtime.layout import NodeLayout
from actors.runtime.port import InstanceSpec, InstanceState, InstanceStatus, Lines, Statuses
from actors.runtime.ports import port_range
from actors.runtime.record import Setup
from events.failpoints import failpoint

_SHIM_ATTEMPTS = 3
_ADOPTIONS_AT_ONCE = 8
_RETRY_SECONDS_FIRST = 0.05
_RETRY_SECONDS_MAX = 30.0
_STOP_SLACK_SECONDS = 20.0
_CLEAR_SECONDS = 60.0
_OVER = (InstanceState.EXITED, InstanceState.LOST)

_log = logging.getLogger(__name__)


class ProcessRuntime:
    """Implements `actors.runtime.port.Runtime`. One at a time per node root; `open` first."""

    def __init__(
        self,
        *,
        node_root: Path,
        run_dir: Path,
        host: str = "127.0.0.1",
        ports: range | None = None,
        containers: Containers | None = None,
    ) -> None:
        self._layout = NodeLayout(
            node_root=node_root, run_dir=run_dir, host=host, ports=ports or port_range(), containers=containers
        )
        self._containers = containers
        self._changes = Changes()
        self._locks: dict[str, asyncio.Lock] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._adopting = asyncio.Semaphore(_ADOPTIONS_AT_ONCE)

    async def open(self) -> Statuses:
        """Adopt what runs here. Raises NodeNotUsable."""
        await asyncio.to_thread(self._layout.prepare)
        setups = await asyncio.to_thread(self._layout.setups)
        statuses = list(await asyncio.gather(*(self._adopt(setup) for setup in setups)))
        if self._containers is not None:
            await self._containers.sweep({each.instance_id for each in statuses if each.state not in _OVER})
        return statuses

    async def close(self) -> None:
        """Stop watching; instances and their shims go on."""
        followers = list(self._followers.values())
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        self._changes.close()

    async def start(self, spec: InstanceSpec) -> InstanceStatus:
        """See Runtime.start."""
        async with self._lock(spec.instance_id):
            setup = await asyncio.to_thread(self._layout.set_up, spec, self._siblings)
            await self._ensure_shim(setup)
            status = await self._status_of(setup)
            self._changes.tell(status)
            if status.state is InstanceState.RUNNING:
                self._follow(setup)
            return status

    async def stop(self, instance_id: str, grace_seconds: float | None = None) -> InstanceStatus:
        """See Runtime.stop. Asked again meanwhile, the shorter grace period counts."""
        setup = await self._setup_of(instance_id)
        grace = setup.spec.grace_seconds if grace_seconds is None else grace_seconds
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        while (status := await self._status_of(setup)).state not in _OVER:
            if loop.time() > until + _STOP_SLACK_SECONDS:
                raise InstanceStillRunning(
                    f"expected {instance_id} to be gone {_STOP_SLACK_SECONDS} s after its grace period, "
                    f"found {status}; its processes may hang in the kernel: see dmesg"
                )
            await self._stop_once(setup, max(until - loop.time(), 0.0), until + _STOP_SLACK_SECONDS)
        try:
            await self._clear(setup)
        except ContainerFault as error:
            raise InstanceStillRunning(f"the container of {instance_id} may still be there: {error}") from error
        self._changes.tell(status)
        return status

    async def _clear(self, setup: Setup) -> None:
        """Whoever attended to a container may have been killed before it. Raises ContainerFault."""
        if setup.spec.image is not None and self._containers is not None:
            await self._containers.clear(setup.spec.instance_id)

    async def _clear_sooner_or_later(self, setup: Setup) -> None:
        pause, deadline = _RETRY_SECONDS_FIRST, asyncio.get_running_loop().time() + _CLEAR_SECONDS
        while True:
            try:
                return await self._clear(setup)
            except ContainerFault as error:
                _log.warning("the container of %s could not be removed: %s", setup.spec.instance_id, error)
            if asyncio.get_running_loop().time() > deadline:
                return None  # it is over all the same, and the next start of this node sweeps
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_SECONDS_MAX)

    async def _stop_once(self, setup: Setup, grace_seconds: float, deadline: float) -> None:
        """One attempt, which a shim that is killed meanwhile can spoil."""
        instance = self._layout.directory(setup.spec.instance_id)
        async with self._lock(setup.spec.instance_id):
            await self._setup_of(setup.spec.instance_id)  # it may have been removed meanwhile
            if not instance.launched:
                await asyncio.to_thread(instance.conclude_unstarted)
                return
            await self._ensure_shim(setup)
        socket = Path(setup.socket)
        if await shim_client.ask(socket, {"op": "stop", "grace": grace_seconds}):
            try:
                async with asyncio.timeout_at(deadline):
                    await shim_client.until_gone(socket)
            except TimeoutError:
                return

    async def signal(self, instance_id: str, number: int) -> None:
        """See Runtime.signal; an instance that is over is left alone."""
        setup = await self._setup_of(instance_id)
        if (await self._status_of(setup)).state is InstanceState.RUNNING:
            async with self._lock(instance_id):
                await self._ensure_shim(setup)
            await shim_client.ask(Path(setup.socket), {"op": "signal", "number": number})

    async def list(self) -> Statuses:
        """See Runtime.list."""
        return await asyncio.to_thread(self._statuses)

    async def status(self, instance_id: str) -> InstanceStatus:
        """See Runtime.status."""
        return await self._status_of(await self._setup_of(instance_id))

    async def spec(self, instance_id: str) -> InstanceSpec:
        """See Runtime.spec."""
        return (await self._setup_of(instance_id)).spec

    async def remove(self, instance_id: str) -> None:
        """See Runtime.remove."""
        async with self._lock(instance_id):
            try:
                setup = await self._setup_of(instance_id)
            except InstanceNotFound:
                return
            status = await self._status_of(setup)
            if status.state not in _OVER:
                raise InstanceStillRunning(
                    f"expected {instance_id} to be over, found it {status.state.value}; stop it first"
                )
            try:
                await self._clear(setup)
            except ContainerFault as error:
                raise InstanceStillRunning(f"the container of {instance_id} may still be there: {error}") from error
            await asyncio.to_thread(self._layout.delete, setup)
            self._changes.forget(instance_id)
        self._locks.pop(instance_id, None)

    def watch(self) -> AsyncIterator[Statuses]:
        """See Runtime.watch."""
        return self._changes.watch()

    async def last_lines(self, instance_id: str, count: int = 20) -> Lines:
        """See Runtime.last_lines."""
        return await asyncio.to_thread(output.last_lines, self.log_directory(instance_id), count)

    def log_directory(self, instance_id: str) -> Path:
        """See Runtime.log_directory."""
        return self._layout.directory(instance_id).log

    def _lock(self, instance_id: str) -> asyncio.Lock:
        return self._locks.setdefault(instance_id, asyncio.Lock())

    def _statuses(self) -> Statuses:
        return [self._layout.directory(each.spec.instance_id).status(each) for each in self._layout.setups()]

    def _siblings(self, uid: int) -> int:
        """How many instances of the user are not over."""
        mine = (each for each in self._layout.setups() if each.launch.uid == uid)
        directories = ((self._layout.directory(each.spec.instance_id), each) for each in mine)
        return sum(1 for directory, each in directories if directory.status(each).state not in _OVER)

    async def _setup_of(self, instance_id: str) -> Setup:
        setup = await asyncio.to_thread(self._layout.directory(instance_id).setup)
        if setup is None:
            raise InstanceNotFound(f"expected an instance {instance_id} on this node, found none; list shows all")
        return setup

    async def _status_of(self, setup: Setup) -> InstanceStatus:
        return await asyncio.to_thread(self._layout.directory(setup.spec.instance_id).status, setup)

    async def _ensure_shim(self, setup: Setup) -> None:
        """A shim that answers, or an instance that is over. The shim finds out by itself what there is to do."""
        failed: RuntimeFault | None = None
        directory = self._layout.directory(setup.spec.instance_id)
        for _ in range(_SHIM_ATTEMPTS):
            if await shim_client.ask(Path(setup.socket), {"op": "status"}):
                return
            if (await self._status_of(setup)).exited_at is not None:
                return
            try:
                failpoint("runtime.spawn")
                await shim_client.spawn(directory.path)
            except StartFailed as error:
                failed = error
        if failed is not None:
            raise failed

    async def _adopt(self, setup: Setup) -> InstanceStatus:
        instance = self._layout.directory(setup.spec.instance_id)
        if instance.launched:
            async with self._adopting, self._lock(setup.spec.instance_id):
                try:
                    await self._ensure_shim(setup)
                except StartFailed as error:
                    _log.warning("%s is not under watch yet, trying on: %s", setup.spec.instance_id, error)
        status = await self._status_of(setup)
        if status.state is InstanceState.RUNNING:
            self._follow(setup)
        return status

    def _follow(self, setup: Setup) -> None:
        instance_id = setup.spec.instance_id
        if instance_id not in self._followers:
            task = asyncio.create_task(self._until_over(setup), name=f"follow {instance_id}")
            self._followers[instance_id] = task
            task.add_done_callback(lambda done: self._followed(instance_id, done))

    def _followed(self, instance_id: str, task: asyncio.Task[None]) -> None:
        self._followers.pop(instance_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("following %s failed", instance_id, exc_info=error)

    async def _until_over(self, setup: Setup) -> None:
        """Keep a shim under a running instance, and tell when it is over."""
        pause = _RETRY_SECONDS_FIRST
        while (status := await self._status_of(setup)).exited_at is None:
            try:
                async with self._lock(setup.spec.instance_id):
                    await self._ensure_shim(setup)
                pause = _RETRY_SECONDS_FIRST
            except StartFailed as error:
                _log.warning("%s has no shim, trying again in %s s: %s", setup.spec.instance_id, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_SECONDS_MAX)
            await shim_client.until_gone(Path(setup.socket))
        await self._clear_sooner_or_later(setup)
        self._changes.tell(status)
