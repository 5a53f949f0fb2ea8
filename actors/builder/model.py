"""What goes into a build and what comes out of it: requests, limits, log lines, artifacts, outcomes.

Pure data that is stored and sent; it knows nothing of processes, directories or Ray.
"""

from enum import StrEnum
from typing import Literal

import msgspec

MIB = 1024 * 1024
GIB = 1024 * MIB


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where the source comes from. Credentials are never part of it.

    `upload`: `digest` is the sha256 of a tar or tar.gz under the uploads directory, `ref` the commit and author its
    sender says it was made of (`events.model.build.said_of`). `git`: `url`, `ref` (branch, tag
    or commit; empty is the remote's HEAD). `svn`: `url`, `ref` (a revision's number; empty is the newest). `image`:
    `url` names it by digest, `ref` as it was asked for. `directory`: `path` on the builder's machine, packed as
    `deploy .` packs it. `subdir` is a directory inside the tree, for every kind but an image.
    """

    kind: Literal["upload", "git", "svn", "image", "directory"]
    digest: str = ""
    url: str = ""
    ref: str = ""
    path: str = ""
    subdir: str = ""


class BuildLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one build, sizes in bytes. `processes`: how many more, threads included, the build's user may have."""

    source_bytes: int = 1 * GIB
    source_entries: int = 100_000
    artifact_bytes: int = 4 * GIB
    log_bytes: int = 32 * MIB
    memory_bytes: int = 4 * GIB
    processes: int = 1024
    open_files: int = 4096
    file_bytes: int = 2 * GIB
    cpu_seconds: int = 3600


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One build to run. `env` is build-time configuration; `fresh` ignores cached dependency layers.

    `step_seconds`: the operator's time-outs by step (`steps.STEPS`), where they are not the usual shares of the whole.

    `user` is the (uid, gid) the build's commands run as; None means as the platform itself. Give builds another user
    than running instances have: a user's process limit counts both.
    """

    build_id: str
    service_id: str
    team: str
    app: str
    component: str
    source: SourceSpec
    env: dict[str, str] = {}
    timeout_seconds: float = 900.0
    step_seconds: dict[str, float] = {}
    limits: BuildLimits = BuildLimits()
    user: tuple[int, int] | None = None
    fresh: bool = False


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of build output: `number` counts from 1 without a gap, `at` is unix microseconds (UTC)."""

    number: int
    at: int
    text: str


class StepTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long one step of a build took, in seconds."""

    name: str
    seconds: float


class ComponentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `rayfold.toml` says about the running component; None where it says nothing."""

    port: int | None = None
    probe_path: str | None = None
    language: str | None = None
    static_root: str | None = None
    dockerfile: str | None = None
    processes: dict[str, str] = {}
    step_seconds: dict[str, float] = {}


IMAGE = "image"
"""The runtime of what was built as a container image, and runs as one."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A finished build: `digest` names its manifest in the artifact store and is all that running it needs.

    `processes` maps a component name (web, worker, …) to its start command; `release_command` runs once before a
    rollout. `size_bytes` is the compressed size of all layers.
    """

    digest: str
    size_bytes: int
    processes: dict[str, str]
    release_command: str | None
    language: str
    runtime: str
    detected: str
    also_saw: tuple[str, ...] = ()
    source_commit: str | None = None
    source_author: str | None = None
    lock_hash: str | None = None
    settings: ComponentSettings = ComponentSettings()
    cache_hit: bool = False
    warnings: tuple[str, ...] = ()
    steps: tuple[StepTime, ...] = ()


class BuildState(StrEnum):
    """Where a build stands; queued → running → one of the four ends, and queued → cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class BuildOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a build ended. `artifact` is set when it succeeded; `reason` and a stable `code` when it did not.

    `lines` are the lines of output that matter; `seconds` is the time from start to end without queueing.
    """

    build_id: str
    state: BuildState
    artifact: Artifact | None = None
    reason: str = ""
    code: str = ""
    lines: tuple[str, ...] = ()
    steps: tuple[StepTime, ...] = ()
    seconds: float = 0.0
    log_lines: int = 0


class BuildStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a build is doing now: its state, the step it is in, and how many lines it has written."""

    build_id: str
    state: BuildState
    step: str = ""
    log_lines: int = 0
