"""Builder: the Ray actor around a `BuildEngine`. Translates orders to requests and outcomes to commands, nothing more.

Its word is only a report: the build's own stream decides which attempt counts.
"""

import asyncio
import os
import time
from collections import OrderedDict
from functools import partial

import msgspec
import structlog

from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.log import LogSink
from actors.builder.model import Artifact as BuiltArtifact
from actors.builder.model import BuildOutcome, BuildRequest, BuildState, LogLine, SourceSpec
from actors.cluster.shell import WORK, ActorShell
from actors.logs.appender import LogAppender
from actors.logs.errors import LogError
from actors.logs.intake.client import IntakeClient
from actors.logs.line import LineRecord
from actors.runtime.users import UserBook
from actors.supervisor.orders import BuildOrder
from events.failpoints import failpoint
from events.model.build import Artifact, BuildStatus, FinishBuild

log = structlog.get_logger("builder")

REMEMBERED_OUTCOMES = 200
HAND_BACK_SECONDS = 300.0  # a builder that is to go finishes what ends until then; the rest is built elsewhere, anew

_STATUS = {
    BuildState.SUCCEEDED: BuildStatus.SUCCEEDED,
    BuildState.CANCELLED: BuildStatus.CANCELLED,
    BuildState.TIMED_OUT: BuildStatus.TIMED_OUT,
}


class Builder(ActorShell):
    """One of a pool; up to one build per core at once."""

    _engine: BuildEngine
    _lines: LogAppender
    _users: UserBook

    async def open(self) -> None:
        """Make the working directories; end what an earlier builder of this name left half done."""
        settings = self.settings
        # What a build reads it reads as another user; who may reach it is said by the directories' own modes.
        os.umask(0o022)
        self._running: dict[tuple[str, int], asyncio.Task[FinishBuild]] = {}
        self._outcomes: OrderedDict[tuple[str, int], FinishBuild] = OrderedDict()
        self._leaving_since: float | None = None
        dirs = BuildDirs.under(settings.data_dir, settings.node_root_dir)
        self._engine = BuildEngine(dirs, sink_for=self._sink_for)
        await self._engine.start()
        token = settings.log_token_file.read_text().strip()
        client = IntakeClient(settings.eventlog_addresses, token)
        self._lines = LogAppender(client, f"{settings.node}/{self.name}")
        self._lines.start()
        self._users = UserBook(settings.node_root_dir / "uids.json")

    async def detail(self) -> str:
        return f"{len(self._running)} builds"

    async def gauges(self) -> dict[str, float]:
        """Builds queued and running are what the pool is scaled by."""
        return {WORK: float(len(self._running)), "builds": float(len(self._running))}

    async def drained(self) -> bool:
        """Builds are finished, or handed back: whoever waits for one finds nobody at it and has it built elsewhere."""
        if self._leaving_since is None:
            self._leaving_since = time.monotonic()
        if time.monotonic() - self._leaving_since > HAND_BACK_SECONDS:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        return not self._running

    async def load(self) -> int | None:
        """Builds queued or running here; None when it takes no more."""
        await self.opened()
        return len(self._running) if self._leaving_since is None else None

    async def build(self, order: BuildOrder) -> FinishBuild:
        """Run a build to its end. The same attempt asked for twice is run once."""
        await self.opened()
        key = (order.build_id, order.attempt)
        if key in self._outcomes:
            return self._outcomes[key]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._run(order))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def join(self, build_id: str, attempt: int) -> FinishBuild | None:
        """The outcome of an attempt that runs here or is remembered; None when nothing is known of it."""
        await self.opened()
        key = (build_id, attempt)
        if key in self._outcomes:
            return self._outcomes[key]
        task = self._running.get(key)
        return await asyncio.shield(task) if task is not None else None

    async def cancel(self, build_id: str) -> bool:
        """Stop a build's whole process tree; False when it is not here."""
        await self.opened()
        return await self._engine.cancel(build_id)

    async def _run(self, order: BuildOrder) -> FinishBuild:
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
            user=(owner.uid, owner.gid) if root else None,
        )
        finish = _finish(order, await self._engine.run(request))
        failpoint("builder.finished")
        await self._end_lines(order.build_id, finish)
        self._outcomes[order.build_id, order.attempt] = finish
        while len(self._outcomes) > REMEMBERED_OUTCOMES:
            self._outcomes.popitem(last=False)
        return finish

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


def _finish(order: BuildOrder, outcome: BuildOutcome) -> FinishBuild:
    return FinishBuild(
        attempt=order.attempt,
        status=_STATUS.get(outcome.state, BuildStatus.FAILED),
        artifact=_artifact(outcome.artifact) if outcome.artifact else None,
        code=outcome.code,
        reason=outcome.reason,
        lines=outcome.lines,
        seconds=round(outcome.seconds, 3),
        cache_hit=outcome.artifact.cache_hit if outcome.artifact else False,
    )


def _artifact(built: BuiltArtifact) -> Artifact:
    settings = {"probe_path": built.settings.probe_path} if built.settings.probe_path else {}
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
