"""The story of an operation, told from its events: which steps are done, which one is under way, how it ended.

Pure: events in, steps out. Knows the names of events; nothing of connections or terminals.
"""

from collections.abc import Callable
from dataclasses import dataclass

from api.cli.document import Document
from api.cli.output import moment


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished step; `seconds` it took."""

    name: str
    detail: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How it ended. `status`: succeeded, failed, cancelled or timed_out; `still_serving`: a release number, or 0."""

    status: str
    detail: str = ""
    code: str = ""
    lines: tuple[str, ...] = ()
    still_serving: int = 0

    @property
    def good(self) -> bool:
        """Whether the operation did what was asked."""
        return self.status == "succeeded"


ENDINGS = {
    "OperationSucceeded": "succeeded",
    "OperationFailed": "failed",
    "OperationCancelled": "cancelled",
    "OperationTimedOut": "timed_out",
}


class Story:
    """Fed with the events of one operation in order. `current` names the step under way; `release` is 0 until known."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.current = "accepted"
        self.release = 0
        self.kind = ""
        self.detected = ""
        self.build = ""
        self.position = ""
        self.ending: Ending | None = None
        self._last = 0.0
        self._started = 0.0
        self._last_at = 0.0
        self._ready: set[str] = set()
        self._switched = False
        self._routed = False
        self._drained = 0
        self._step_instance = ""

    @property
    def seconds(self) -> float:
        """How long it took from its first to its newest event."""
        return max(self._last_at - self._started, 0.0) if self._started else 0.0

    def on(self, event: Document) -> list[Step]:
        """The steps that `event` finishes."""
        if event.text("operation") not in ("", self.operation):
            return []  # a child's: another component's story
        kind, body = event.text("type"), event.inner("body")
        at = moment(event.text("at"))
        now = at.timestamp() if at else self._last_at
        self._started = self._started or now
        self._last = self._last or now
        self._last_at = max(now, self._last_at)
        self.position = event.text("position") or self.position
        if kind in ENDINGS and body.text("operation") == self.operation:
            self._end(kind, body)
            return []
        told = _HANDLERS.get(kind)
        step = told(self, body) if told else None
        if step is None:
            return []
        name, detail = step
        seconds, self._last = max(now - self._last, 0.0), now
        return [Step(name=name, detail=detail, seconds=seconds)]

    def _end(self, kind: str, body: Document) -> None:
        self.ending = Ending(
            status=ENDINGS[kind],
            detail=body.text("reason", "detail"),
            code=body.text("code"),
            lines=body.words("lines"),
            still_serving=body.whole("still_serving"),
        )

    def _on_started(self, body: Document) -> tuple[str, str] | None:
        if body.text("operation") == self.operation:
            self.kind = body.text("kind")
        return None

    def _on_build_requested(self, body: Document) -> tuple[str, str] | None:
        self.current, self.build = "build", body.text("build_id")
        return None

    def _on_build_started(self, body: Document) -> tuple[str, str] | None:
        self.current = "build" if body.whole("attempt") <= 1 else f"build (attempt {body.whole('attempt')})"
        return "queue", f"builder {body.text('builder')}"

    def _on_built(self, body: Document) -> tuple[str, str]:
        artifact = body.inner("artifact")
        self.detected = artifact.text("detected", "language")
        commit = artifact.text("commit")[:12]
        parts = [self.detected, f"commit {commit}" if commit else "", "cached" if body.flag("cache_hit") else ""]
        self.current = "release"
        return "build", ", ".join(part for part in parts if part)

    def _on_release(self, body: Document) -> tuple[str, str]:
        release = body.inner("release")
        self.release = release.whole("number")
        self.current = "start"
        again = f" (repeats v{release.whole('rollback_of')})" if release.whole("rollback_of") else ""
        return "release", f"v{self.release}{again}"

    def _on_starting(self, body: Document) -> tuple[str, str] | None:
        if body.text("kind") == "release_step":
            self._step_instance = body.text("instance")
            self.current = "release step"
        return None

    def _on_exited(self, body: Document) -> tuple[str, str] | None:
        if not self._step_instance or body.text("instance") != self._step_instance:
            return None
        self.current = "start"
        return "release step", f"exit code {body.whole('exit_code')}"

    def _on_rollout(self, body: Document) -> tuple[str, str] | None:
        self.current = "start"
        return None

    def _on_ready(self, body: Document) -> tuple[str, str] | None:
        self._ready.add(body.text("instance"))
        self.current = f"start ({len(self._ready)} ready)"
        return None

    def _on_switched(self, body: Document) -> tuple[str, str]:
        self._switched = True
        self.current = "route"
        count = len(self._ready)
        return "ready", "no new instance was needed" if not count else f"{count} instance{'s'[: count > 1]}"

    def _on_applied(self, body: Document) -> tuple[str, str] | None:
        if not self._switched or self._routed:
            return None
        self._routed = True
        self.current = "drain"
        count = len(body.words("gateways"))
        return "routed", f"{count} gateway{'s'[: count != 1]}"

    def _on_drained(self, body: Document) -> tuple[str, str] | None:
        self._drained += len(body.words("instances"))
        self.current = "stop the old instances"
        late = ", time was up" if body.flag("timed_out") else ""
        return "drained", f"{len(body.words('instances'))} old instance(s){late}"

    def _on_rolled_out(self, body: Document) -> tuple[str, str]:
        self.current = "finish"
        return "live", f"v{body.whole('release')}"

    def _on_siblings(self, body: Document) -> tuple[str, str] | None:
        names = [item.text("process") for item in body.items("siblings")]
        self.current = "other processes: " + ", ".join(names)
        return None

    def _on_sibling(self, body: Document) -> tuple[str, str]:
        return body.text("process"), "live" if body.flag("succeeded") else body.text("reason", default="failed")


_HANDLERS: dict[str, Callable[[Story, Document], tuple[str, str] | None]] = {
    "OperationStarted": Story._on_started,
    "DeployRequested": Story._on_build_requested,
    "BuildStarted": Story._on_build_started,
    "BuildSucceeded": Story._on_built,
    "ReleaseCreated": Story._on_release,
    "InstanceStarting": Story._on_starting,
    "InstanceExited": Story._on_exited,
    "RolloutStarted": Story._on_rollout,
    "InstanceReady": Story._on_ready,
    "RolloutSwitched": Story._on_switched,
    "RoutingApplied": Story._on_applied,
    "EndpointsDrained": Story._on_drained,
    "RolloutSucceeded": Story._on_rolled_out,
    "SiblingsRequested": Story._on_siblings,
    "SiblingEnded": Story._on_sibling,
}
