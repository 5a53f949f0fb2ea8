"""The build engine: takes requests, runs a bounded number of builds at once, and says how each ended.

Plain asyncio; it must not know of Ray, of the event log, or of who asked.
"""

import asyncio
import errno
import fcntl
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, time

import msgspec
import structlog

from actors.builder.access import Access, no_access
from actors.builder.archive import remove_tree
from actors.builder.artifacts import ArtifactStore, DirectoryArtifactStore
from actors.builder.cache import LayerCache
from actors.builder.errors import BuilderError
from actors.builder.executor import Executor
from actors.builder.images import ContainerExecutor
from actors.builder.job import BuildJob
from actors.builder.log import BuildLog, LogSink, Mask, read_log
from actors.builder.model import BuildOutcome, BuildRequest, BuildState, BuildStatus, LogLine
from actors.builder.process import ProcessExecutor
from actors.builder.retention import InUse, Swept, sweep
from actors.builder.uploads import prune_outputs, prune_uploads
from actors.containers.errors import ContainerFault
from actors.containers.settings import ContainerSettings

log = structlog.get_logger("builder")

_BUILD_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_LOCK_FILE = "owner.lock"

SinkFor = Callable[[BuildRequest], LogSink]
AccessFor = Callable[[BuildRequest], Access]


class BuildDirs(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine works. `work` and `tools` must be traversable by the users that builds run as."""

    uploads: Path
    artifacts: Path
    cache: Path
    logs: Path
    work: Path
    tools: Path

    @classmethod
    def under(cls, data: Path, node_root: Path) -> "BuildDirs":
        """The usual places below the data directory and the node's root."""
        return cls(
            uploads=data / "uploads",
            artifacts=data / "artifacts",
            cache=data / "cache" / "layers",
            logs=data / "logs" / "builds",
            work=node_root / "builds",
            tools=node_root / "tools",
        )


class _Running:
    def __init__(self, request: BuildRequest) -> None:
        self.request = request
        self.task: asyncio.Task[BuildOutcome] | None = None
        self.job: BuildJob | None = None
        self.log: BuildLog | None = None
        self.cancelled = False
        self.done = asyncio.Event()


class BuildEngine:
    """Runs builds. `sink_for` gives each build the function that takes its log lines, in lists; `access_for` the one
    that says what its team reads a URL with."""

    def __init__(
        self,
        dirs: BuildDirs,
        *,
        sink_for: SinkFor | None = None,
        store: ArtifactStore | None = None,
        at_once: int | None = None,
        containers: ContainerSettings | None = None,
        access_for: AccessFor = lambda request: no_access,
    ) -> None:
        self.dirs = dirs
        self.store: ArtifactStore = store or DirectoryArtifactStore(dirs.artifacts)
        self.cache = LayerCache(dirs.cache, self.store)
        self._executor: Executor = (
            ContainerExecutor(containers, home=str(dirs.work), store=self.store, cache=self.cache)
            if containers is not None and containers.engine
            else ProcessExecutor(store=self.store, cache=self.cache)
        )
        self._sink_for = sink_for
        self._access_for = access_for
        self._slots = asyncio.Semaphore(at_once or os.cpu_count() or 1)
        self._running: dict[str, _Running] = {}

    async def start(self) -> None:
        """Make the directories, and remove what builds left behind whose engine was killed."""
        await asyncio.to_thread(self._prepare)
        try:
            await self._executor.sweep()
        except ContainerFault as error:
            log.warning("the container engine cannot be used now", error=str(error))

    async def prune(self, *, artifacts: Collection[str], in_use: InUse, before: float) -> Swept:
        """Remove what no artifact of `artifacts` and no build needs; see `retention.sweep`."""
        images = partial(self._executor.prune, in_use=in_use, before=before)
        swept = await sweep(self.store, self.cache, artifacts=artifacts, before=before, images=images)
        outputs = await asyncio.to_thread(prune_outputs, self.dirs.logs, running=self.running())
        return msgspec.structs.replace(swept, outputs=outputs)

    async def prune_uploads(self, *, needed: Collection[str], before: float) -> tuple[int, int]:
        """Remove uploads that were not used since `before` (unix seconds); how many, and their bytes."""
        return await asyncio.to_thread(prune_uploads, self.dirs.uploads, needed=needed, before=before)

    async def run(self, request: BuildRequest) -> BuildOutcome:
        """Run one build to its end; every end, a time-out or a cancellation through `cancel` included, is an outcome.

        Waits for a free slot first; the time limit counts from the start. Cancelling the caller stops the build and
        goes on as `CancelledError`. Raises `BuilderError` for an id that is unusable or already running.
        """
        if not _BUILD_ID.match(request.build_id):
            raise BuilderError(f"Expected a build id of letters, digits, - and _, found {request.build_id[:80]!r}.")
        if request.build_id in self._running:
            raise BuilderError(f"Build {request.build_id} is running already; wait for it or cancel it.")
        running = _Running(request)
        self._running[request.build_id] = running
        running.task = asyncio.create_task(self._in_slot(running), name=f"build {request.build_id}")
        try:
            return await running.task
        except asyncio.CancelledError:
            if not running.cancelled:
                running.task.cancel()
                await asyncio.wait([running.task])
                raise
            return BuildOutcome(
                build_id=request.build_id,
                state=BuildState.CANCELLED,
                reason="cancelled on request",
                code="cancelled",
                steps=tuple(running.job.bench.times) if running.job else (),
                log_lines=running.log.count if running.log else 0,
            )
        finally:
            del self._running[request.build_id]
            running.done.set()

    async def cancel(self, build_id: str) -> bool:
        """Stop a queued or running build; returns when all its processes are gone. False if it is not here."""
        running = self._running.get(build_id)
        if running is None or running.task is None:
            return False
        running.cancelled = True
        running.task.cancel()
        await running.done.wait()
        return True

    def status(self, build_id: str) -> BuildStatus | None:
        """What a queued or running build is doing; None when it is not here (any more)."""
        running = self._running.get(build_id)
        if running is None:
            return None
        if running.job is None:
            return BuildStatus(build_id=build_id, state=BuildState.QUEUED)
        lines = running.log.count if running.log else 0
        step = running.job.bench.current_step
        return BuildStatus(build_id=build_id, state=BuildState.RUNNING, step=step, log_lines=lines)

    def running(self) -> list[str]:
        """Ids of the builds queued and running here."""
        return list(self._running)

    async def output(self, build_id: str) -> list[LogLine]:
        """The kept log of a build, finished or not; empty if there is none."""
        if not _BUILD_ID.match(build_id):
            return []
        try:
            return await asyncio.to_thread(read_log, self._log_path(build_id))
        except FileNotFoundError:
            return []

    def _log_path(self, build_id: str) -> Path:
        return self.dirs.logs / f"{build_id}.log"

    async def _in_slot(self, running: _Running) -> BuildOutcome:
        async with self._slots:
            request = running.request
            sink = self._sink_for(request) if self._sink_for else None
            log = running.log = BuildLog(
                self._log_path(request.build_id),
                sink=sink,
                mask=Mask(request.env),
                limit_bytes=request.limits.log_bytes,
            )
            work = self.dirs.work / request.build_id
            lock = await asyncio.to_thread(_make_work, work)
            try:
                await log.open()
                running.job = BuildJob(
                    request, work=work, dirs_uploads=self.dirs.uploads, tools=self.dirs.tools, log=log,
                    executor=self._executor, access=self._access_for(request),
                )  # fmt: skip
                return await self._to_outcome(running, running.job, log)
            finally:
                await asyncio.shield(asyncio.to_thread(_remove_work, work, lock))

    async def _to_outcome(self, running: _Running, job: BuildJob, log: BuildLog) -> BuildOutcome:
        request, started = running.request, monotonic()
        state, artifact = BuildState.FAILED, None
        reason, code = "", ""
        lines: tuple[str, ...] = ()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                artifact = await job.run()
                state = BuildState.SUCCEEDED
        except TimeoutError:
            state, code, lines = BuildState.TIMED_OUT, "timed_out", log.lines_that_matter()
            reason = (
                f"The build did not end within {request.timeout_seconds:g} s; it was in the step "
                f"{job.bench.current_step!r} and was stopped."
            )
        except BuilderError as error:
            reason, code, lines = str(error), error.code, error.lines
        except OSError as error:
            reason, code = _told_by_the_machine(error)
        except asyncio.CancelledError:
            await log.problem("Build cancelled")
            await log.close()
            raise
        if state is not BuildState.SUCCEEDED:
            await log.problem(f"{reason}\n{code}: docs/build-errors.md#{code}")
        await log.close()
        return BuildOutcome(
            build_id=request.build_id,
            state=state,
            artifact=artifact,
            reason=Mask(request.env)(reason),
            code=code,
            lines=lines,
            steps=tuple(job.bench.times),
            seconds=round(monotonic() - started, 3),
            log_lines=log.count,
        )

    def _prepare(self) -> None:
        for private in (self.dirs.uploads, self.dirs.artifacts, self.dirs.cache, self.dirs.logs):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.dirs.work.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.dirs.work.chmod(0o711)
        for left in self.dirs.work.iterdir():
            lock = _try_lock(left / _LOCK_FILE)
            if lock is not None:
                _remove_work(left, lock)
        if isinstance(self.store, DirectoryArtifactStore):
            self.store.sweep(time())


def _told_by_the_machine(error: OSError) -> tuple[str, str]:
    """What to say, and the code, when the builder itself could not write or read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The builder's disk is full: {error}. Free space there and deploy again.", "disk_full"
    return f"The builder's machine refused: {error}. Check space and permissions.", "builder_machine"


def _make_work(work: Path) -> int:
    """A new work directory and the lock that says its engine lives: the kernel lets go of it with the process."""
    remove_tree(work)
    work.mkdir(mode=0o711)
    work.chmod(0o711)
    lock = os.open(work / _LOCK_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _try_lock(path: Path) -> int | None:
    """The lock of an abandoned work directory, None while its engine lives."""
    try:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove_work(work: Path, lock: int) -> None:
    with suppress(OSError):
        remove_tree(work)
    os.close(lock)
