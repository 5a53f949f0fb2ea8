"""Build: one attempt to turn a source into an artifact, from the request to its one ending.

Knows what was asked and what came of it; how a builder works is none of its business.
"""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal


class BuildStatus(StrEnum):
    """absent → queued → running → succeeded | failed | cancelled | timed_out; queued may also be cancelled or time out.
    A running build whose builder died is started again (running → running, one attempt more)."""

    ABSENT = "absent"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


LIVE = (BuildStatus.QUEUED, BuildStatus.RUNNING)
MAX_ATTEMPTS = 3
ENDED = "ended"
"""Of a refusal: there is nothing left to build."""


RELEASE_TIMEOUT = "release_timeout_seconds"
"""Of an artifact's settings: how long its release command may take, where somebody said so."""
RELEASE_SECONDS = 600  # time for a migration; one that hangs on a lock is not waited for until the whole deploy ends
MOST_RELEASE_SECONDS = 24 * 3600
PORT = "port"
"""Of an artifact's settings: the port inside that its image is reached at; without it an image is told one in PORT."""
MOST_PORT = 65_535
_OF_THE_ARTIFACT = (RELEASE_TIMEOUT, PORT)


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where the source comes from. `kind`: upload (digest of the uploaded tar) or git (url, ref, subdir).

    Of an upload `ref` is what its sender says it was made of (`said_of`), empty where nothing was said.
    """

    kind: str
    digest: str = ""
    url: str = ""
    ref: str = ""
    subdir: str = ""

    def said_of_upload(self) -> tuple[str, str]:
        """Commit and author that an upload's sender named; empty of another kind, and where nothing was said."""
        return said_in(self.ref) if self.kind == "upload" else ("", "")


def said_of(commit: str, author: str) -> str:
    """The `ref` of an upload: `COMMIT[-dirty] Name <mail>`."""
    return f"{commit} {author}".strip()


def said_in(ref: str) -> tuple[str, str]:
    """Commit and author of an upload's `ref`."""
    commit, _, author = ref.partition(" ")
    return commit, author


class Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a build made: content-addressed, with how to run it. `processes` maps a process type to its command."""

    digest: str
    size_bytes: int
    processes: dict[str, str]
    release_command: str = ""
    language: str = ""
    detected: str = ""
    commit: str = ""
    author: str = ""
    lock_hash: str = ""
    settings: dict[str, str] = {}

    def of_component(self) -> dict[str, str]:
        """The settings that are the component's; the others are about this artifact alone."""
        return {key: text for key, text in self.settings.items() if key not in _OF_THE_ARTIFACT}

    def release_seconds(self) -> int:
        """How long its release command may take: what the source or the operator says, else `RELEASE_SECONDS`."""
        text = self.settings.get(RELEASE_TIMEOUT, "")
        plain = text.isascii() and text.isdecimal() and len(text) < 9
        return min(max(int(text), 1), MOST_RELEASE_SECONDS) if plain else RELEASE_SECONDS


class BuildState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    status: BuildStatus = BuildStatus.ABSENT
    build_id: str = ""
    service_id: str = ""
    team: str = ""
    app: str = ""
    component: str = ""
    operation: str = ""
    source: Source | None = None
    timeout_seconds: int = 900
    builder: str = ""
    attempt: int = 0
    artifact: Artifact | None = None
    code: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()
    cancel_requested: bool = False
    requested_at: int = 0
    started_at: int = 0
    ended_at: int = 0

    @property
    def ended(self) -> bool:
        return self.status not in (BuildStatus.ABSENT, *LIVE)


class BuildRequested(Event, frozen=True):
    build_id: str
    service_id: str
    team: str
    app: str
    component: str
    operation: str
    source: Source
    timeout_seconds: int


class BuildStarted(Event, frozen=True):
    """The intent to build, durable before the builder is told. `attempt` starts at 1."""

    builder: str
    attempt: int


class BuildSucceeded(Event, frozen=True):
    artifact: Artifact
    seconds: float = 0.0
    cache_hit: bool = False


class BuildFailed(Event, frozen=True):
    code: str
    reason: str
    lines: tuple[str, ...] = ()


class BuildCancelRequested(Event, frozen=True):
    reason: str


class BuildCancelled(Event, frozen=True):
    reason: str


class BuildTimedOut(Event, frozen=True):
    reason: str
    lines: tuple[str, ...] = ()


class RequestBuild(Command, frozen=True):
    build_id: str
    service_id: str
    team: str
    app: str
    component: str
    operation: str
    source: Source
    timeout_seconds: int = 900


class StartBuild(Command, frozen=True):
    """A builder begins. `attempt` is its claim's (0: the next one); only one that is greater than any before counts."""

    builder: str
    attempt: int = 0


class FinishBuild(Command, frozen=True):
    """A builder's outcome. `status` is one of the four endings; `attempt` must be the one that runs."""

    attempt: int
    status: BuildStatus
    artifact: Artifact | None = None
    code: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()
    seconds: float = 0.0
    cache_hit: bool = False


class CancelBuild(Command, frozen=True):
    reason: str = "cancelled by user"


BuildEvent = (
    BuildRequested | BuildStarted | BuildSucceeded | BuildFailed | BuildCancelRequested | BuildCancelled | BuildTimedOut
)
BuildCommand = RequestBuild | StartBuild | FinishBuild | CancelBuild


def apply(state: BuildState, event: BuildEvent, at: int) -> BuildState:
    replace = msgspec.structs.replace
    match event:
        case BuildRequested():
            return BuildState(
                status=BuildStatus.QUEUED,
                build_id=event.build_id,
                service_id=event.service_id,
                team=event.team,
                app=event.app,
                component=event.component,
                operation=event.operation,
                source=event.source,
                timeout_seconds=event.timeout_seconds,
                requested_at=at,
            )
        case BuildStarted(builder=builder, attempt=attempt):
            return replace(state, status=BuildStatus.RUNNING, builder=builder, attempt=attempt, started_at=at)
        case BuildSucceeded(artifact=artifact):
            return replace(state, status=BuildStatus.SUCCEEDED, artifact=artifact, ended_at=at)
        case BuildFailed(code=code, reason=reason, lines=lines):
            return replace(state, status=BuildStatus.FAILED, code=code, reason=reason, lines=lines, ended_at=at)
        case BuildCancelRequested():
            return replace(state, cancel_requested=True)
        case BuildCancelled(reason=reason):
            return replace(state, status=BuildStatus.CANCELLED, code="cancelled", reason=reason, ended_at=at)
        case BuildTimedOut(reason=reason, lines=lines):
            return replace(
                state, status=BuildStatus.TIMED_OUT, code="timed_out", reason=reason, lines=lines, ended_at=at
            )


def decide(state: BuildState, command: BuildCommand, meta: Meta) -> Decision:
    match command:
        case RequestBuild():
            if state.status is not BuildStatus.ABSENT:
                return []
            return [BuildRequested(**msgspec.structs.asdict(command))]
        case _ if state.status is BuildStatus.ABSENT:
            return Refusal(code="not_found", message="no such build")
        case StartBuild():
            return _start(state, command)
        case FinishBuild():
            return _finish(state, command)
        case CancelBuild(reason=reason):
            if state.ended:
                return Refusal(code="conflict", message=f"build {state.build_id} has ended already: {state.status}")
            if state.status is BuildStatus.QUEUED:
                return [BuildCancelled(reason=reason)]
            return [] if state.cancel_requested else [BuildCancelRequested(reason=reason)]
    raise TypeError(f"not a build command: {type(command).__name__}")


def _start(state: BuildState, command: StartBuild) -> Decision:
    if state.ended:
        return Refusal(code=ENDED, message=f"build {state.build_id} has ended already: {state.status}")
    attempt = command.attempt or state.attempt + 1
    if attempt <= state.attempt:
        message = f"attempt {attempt} of build {state.build_id} comes after attempt {state.attempt}"
        return Refusal(code="conflict", message=message)
    if state.cancel_requested:
        return [BuildCancelled(reason="cancelled")]
    if attempt > MAX_ATTEMPTS:
        reason = f"the builder died {MAX_ATTEMPTS} times during this build"
        return [BuildFailed(code="builder_died", reason=reason)]
    return [BuildStarted(builder=command.builder, attempt=attempt)]


def _finish(state: BuildState, command: FinishBuild) -> Decision:
    # A late word of an earlier attempt (its builder was thought dead) must not end the attempt that runs now.
    if state.status is not BuildStatus.RUNNING or command.attempt != state.attempt:
        return []
    match command.status:
        case BuildStatus.SUCCEEDED if command.artifact is not None:
            return [BuildSucceeded(artifact=command.artifact, seconds=command.seconds, cache_hit=command.cache_hit)]
        case BuildStatus.CANCELLED:
            return [BuildCancelled(reason=command.reason or "cancelled")]
        case BuildStatus.TIMED_OUT:
            return [BuildTimedOut(reason=command.reason, lines=command.lines)]
        case _:
            return [BuildFailed(code=command.code or "build_failed", reason=command.reason, lines=command.lines)]
