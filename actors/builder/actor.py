"""Builder: the Ray actor around a `BuildEngine` and the worker that gives it builds from the queue.

Translates orders to requests and outcomes to commands, nothing more.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from functools import partial
from math import ceil

import msgspec
import structlog

from actors.builder.access import Access
from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.errors import SourceError
from actors.builder.log import LogSink
from actors.builder.model import IMAGE, BuildOutcome, BuildRequest, BuildState, LogLine, SourceSpec
from actors.builder.model import Artifact as BuiltArtifact
from actors.builder.orders import BUILDS
from actors.builder.retention import SWEEPER, InUse, Swept
from actors.builder.slots import NodeSlots
from actors.builder.steps import RELEASE
from actors.builder.uploads import UPLOAD_KEPT_SECONDS
from actors.builder.worker import BuildWorker
from actors.cluster.directory import ActorUnreachable, Directory
from actors.cluster.event_log import make_event_log
from actors.cluster.links import AccessLinks
from actors.cluster.router import make_router
from actors.cluster.shell import WORK, ActorShell
from actors.logs.appender import LogAppender
from actors.logs.errors import LogError
from actors.logs.intake.client import IntakeClient
from actors.logs.line import LineRecord
from actors.runtime.users import UserBook
from actors.supervisor.orders import BuildOrder, SourceAccess
from events.log.errors import LogError as LogStoreError
from events.model.build import PORT, RELEASE_TIMEOUT, Artifact, BuildStatus, FinishBuild
from events.queue.etcd_queue import EtcdTaskQueue
from projections.database import Database
from projections.errors import ProjectionsError
from projections.references import NotCertain, References, references

log = structlog.get_logger("builder")

SWEEP_SECONDS = 600.0  # between two rounds that remove what nothing refers to
CATCH_UP_SECONDS = 10.0  # that the read models may be behind when a round begins
HAND_BACK_SECONDS = 300.0  # a builder that is to go finishes what ends until then; the rest is built elsewhere, anew

_STATUS = {
    BuildState.SUCCEEDED: BuildStatus.SUCCEEDED,
    BuildState.CANCELLED: BuildStatus.CANCELLED,
    BuildState.TIMED_OUT: BuildStatus.TIMED_OUT,
}


class Builder(ActorShell):
    """One of a pool; together they run up to one build per core at once, or what their node is set to."""

    _engine: BuildEngine
    _lines: LogAppender
    _users: UserBook
    _worker: BuildWorker

    async def open(self) -> None:
        """Make the working directories; end what an earlier builder of this name left half done; ask for work."""
        settings = self.settings
        # What a build reads it reads as another user; who may reach it is said by the directories' own modes.
        os.umask(0o022)
        self._leaving_since: float | None = None
        at_once = settings.builds_at_once or os.cpu_count() or 1
        dirs = BuildDirs.under(settings.data_dir, settings.node_root_dir)
        self._engine = BuildEngine(
            dirs, sink_for=self._sink_for, at_once=at_once, containers=settings.containers, access_for=self._access_for
        )
        await self._engine.start()
        token = settings.log_token_file.read_text().strip()
        client = IntakeClient(settings.eventlog_addresses, token)
        self._lines = LogAppender(client, f"{settings.node}/{self.name}")
        self._lines.start()
        self._users = UserBook(settings.node_root_dir / "uids.json")
        event_log = make_event_log(settings)
        await event_log.open()
        # Alone: Ray starts the next process of a name when the last one is dead, so what that had claimed is free.
        self._queue = EtcdTaskQueue(event_log.client, name=self.name, alone=True)
        await self._queue.open()
        directory = Directory()
        self._access = AccessLinks(directory=directory, event_log=event_log)
        commands = make_router(settings, event_log, directory)
        slots = NodeSlots(settings.node_root_dir / "build-slots", at_once)
        self._worker = BuildWorker(name=self.name, queue=self._queue, commands=commands, build=self._build, slots=slots)
        self.keep(self._worker.run(), "work")
        self._event_log, self._database = event_log, Database(settings.database_url)
        self._sweeping = asyncio.Lock()
        if self.name == SWEEPER:
            self.keep(self._rounds(), "sweep")

    async def detail(self) -> str:
        return f"{len(self._worker.running)} builds"

    async def gauges(self) -> dict[str, float]:
        """Builds running here, and this builder's share of those that wait, are what the pool is scaled by."""
        running, waiting = len(self._worker.running), await self._queue.stats(BUILDS)
        share = (waiting.ready + waiting.delayed) / max(1, waiting.consumers)
        return {WORK: running + share, "builds": float(running)}

    async def drained(self) -> bool:
        """Builds are finished, or handed back: another builder claims them and builds anew."""
        if self._leaving_since is None:
            self._leaving_since = time.monotonic()
        await self._worker.leave(hand_back=time.monotonic() - self._leaving_since > HAND_BACK_SECONDS)
        return not self._worker.running

    async def sweep(self) -> Swept:
        """Remove now what no release, build or cached layer refers to. Trouble is told in the answer."""
        await self.opened()
        async with self._sweeping:
            return await self._sweep()

    async def _sweep(self) -> Swept:
        begun = time.time()
        try:
            partitions = range(self.settings.partitions)
            tails = dict(
                zip(partitions, await asyncio.gather(*(self._event_log.tail(p) for p in partitions)), strict=True)
            )
            known = await self._references(tails)
        except (LogStoreError, NotCertain, ProjectionsError) as error:
            return Swept(trouble=f"{error}; the next round tries again")
        oldest = min(begun, known.oldest_build_at / 1e6 or begun)
        before = oldest - self.settings.artifact_slack_seconds
        in_use = InUse(
            images=known.images,
            services=known.services,
            building=frozenset(known.building.values()),
            building_services=frozenset(known.building),
        )
        swept = await self._engine.prune(artifacts=known.artifacts, in_use=in_use, before=before)
        # Whoever deploys an upload has renewed it, so what a deploy that goes on was made of is younger than that.
        oldest = min(oldest, known.oldest_operation_at / 1e6 or begun)
        uploads, freed = await self._engine.prune_uploads(needed=known.uploads, before=oldest - UPLOAD_KEPT_SECONDS)
        return msgspec.structs.replace(swept, uploads=uploads, upload_bytes=freed)

    async def _references(self, tails: Mapping[int, int]) -> References:
        """The read models are a moment behind the log: they are asked until they are not."""
        until = time.monotonic() + CATCH_UP_SECONDS
        while True:
            try:
                return await asyncio.to_thread(references, self._database, tails)
            except NotCertain:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.1)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            swept = await self.sweep()
            if swept.trouble:
                log.warning("no artifact was removed", trouble=swept.trouble)
            elif swept.removed or swept.uploads or swept.images:
                log.info(
                    "what nothing refers to was removed", blobs=swept.removed, images=swept.images,
                    uploads=swept.uploads, outputs=swept.outputs, bytes=swept.freed_bytes,
                )  # fmt: skip
            if swept.told:
                log.warning("images that nothing refers to stay", why=swept.told)

    async def cancel(self, build_id: str) -> bool:
        """Stop a build's whole process tree; False when it is not here."""
        await self.opened()
        return await self._engine.cancel(build_id)

    async def _build(self, order: BuildOrder, attempt: int) -> FinishBuild:
        # An earlier attempt that still runs here would build the same thing beside this one.
        await self._engine.cancel(order.build_id)
        owner = await asyncio.to_thread(self._users.owner_of, order.team, order.app)
        root = self.settings.runs_as_root
        request = BuildRequest(
            build_id=order.build_id,
            service_id=order.service_id,
            team=order.team,
            app=order.app,
            component=order.component,
            source=SourceSpec(**msgspec.structs.asdict(order.source)),
            timeout_seconds=float(order.timeout_seconds),
            step_seconds=self.settings.build_step_seconds,
            user=(owner.uid, owner.gid) if root else None,
        )
        finish = _finish(attempt, await self._engine.run(request), self.settings.build_step_seconds)
        await self._end_lines(order.build_id, finish)
        return finish

    def _access_for(self, request: BuildRequest) -> Access:
        async def access(url: str) -> SourceAccess:
            try:
                return await self._access.source_access(request.team, url)
            except ActorUnreachable as error:
                raise SourceError(f"{error}. Deploy again.", code="credentials_unavailable") from error

        return access

    def _sink_for(self, request: BuildRequest) -> LogSink:
        return partial(self._take_lines, f"build/{request.build_id}")

    async def _take_lines(self, stream: str, lines: list[LogLine]) -> None:
        for line in lines:
            await self._lines.write(stream, LineRecord(at=line.at, text=line.text, source="build"))

    async def _end_lines(self, build_id: str, finish: FinishBuild) -> None:
        """An operation's outcome never depends on its lines: a log service that is away delays nothing."""
        try:
            await self._lines.close_stream(f"build/{build_id}", finish.status.value, seconds=2.0)
        except LogError as error:
            log.warning("build output is not closed", build=build_id, error=str(error))


def _finish(attempt: int, outcome: BuildOutcome, operator: Mapping[str, float]) -> FinishBuild:
    """`operator`: seconds by step that the platform's settings give, for what is not the builder's to run."""
    return FinishBuild(
        attempt=attempt,
        status=_STATUS.get(outcome.state, BuildStatus.FAILED),
        artifact=artifact_of(outcome.artifact, operator) if outcome.artifact else None,
        code=outcome.code,
        reason=outcome.reason,
        lines=outcome.lines,
        seconds=round(outcome.seconds, 3),
        cache_hit=outcome.artifact.cache_hit if outcome.artifact else False,
    )


def artifact_of(built: BuiltArtifact, operator: Mapping[str, float]) -> Artifact:
    """What the log keeps of what was built. `operator`: seconds by step, where the source does not say them."""
    settings = {"probe_path": built.settings.probe_path} if built.settings.probe_path else {}
    release = built.settings.step_seconds.get(RELEASE) or operator.get(RELEASE)
    if release and built.release_command:
        settings[RELEASE_TIMEOUT] = str(ceil(release))
    if built.runtime == IMAGE and built.settings.port:
        # Of what is no image it says nothing: its port is told it in PORT.
        settings[PORT] = str(built.settings.port)
    return Artifact(
        digest=built.digest,
        size_bytes=built.size_bytes,
        processes=built.processes,
        release_command=built.release_command or "",
        language=built.language,
        detected=built.detected,
        commit=built.source_commit or "",
        author=built.source_author or "",
        lock_hash=built.lock_hash or "",
        settings=settings,
    )
