"""The runtime's port: what it means to start, watch and stop an instance on one node, whatever it is made of.

Knows nothing of processes, Kubernetes, events or Ray; adapters implement `Runtime` and pass its contract suite,
tests/actors/runtime/contract.py.
"""

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

MIB = 1024 * 1024


class InstanceKind(StrEnum):
    """What an instance is for: a service runs until stopped, a task runs once and its exit code is its result."""

    SERVICE = "service"
    TASK = "task"


class InstanceState(StrEnum):
    """Where an instance stands. Legal moves: starting → running → exited | lost, starting → exited."""

    STARTING = "starting"  # described on disk, its command not yet released; call `start` again to go on
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"  # gone with nobody left to see how (the node was restarted, or shim and process died together)


class ExitCause(StrEnum):
    """Why an instance is no longer running."""

    EXITED = "exited"  # by itself: see exit_code or signal
    STOPPED = "stopped"  # asked for through `stop`
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = "process_limit"
    START_FAILED = "start_failed"  # the sandbox could not be set up; the command never ran
    LOST = "lost"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance may use. How sharply each holds is the adapter's to say."""

    memory_bytes: int = 512 * MIB
    open_files: int = 4096
    processes: int = 256
    """Processes and threads together, as the kernel counts them."""


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A container image to run. `as_is`: its own entrypoint and command; else a shell in it runs the spec's command.

    `port`: where it listens inside; None: where PORT tells it to.
    """

    reference: str
    port: int | None = None
    as_is: bool = False


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to run one instance; immutable, and the first spec given for an `instance_id` stands."""

    instance_id: str
    service_id: str
    team: str
    app: str
    component: str
    release: int
    kind: InstanceKind = InstanceKind.SERVICE
    command: str
    """A Procfile command line, given to a shell inside the sandbox as the application's user, and nowhere else."""
    artifact_path: str
    """A directory, absolute, in which the command runs; the instance must not need to write there."""
    image: ImageSpec | None = None
    """Run this instead of a process in `artifact_path`; only where the node has a container engine."""
    env: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()
    """Names in `env` whose values never stand in the output, in none of the forms in which they may be printed."""
    wants_port: bool = False
    """Allocate a port, given to the command as PORT."""
    limits: Limits = Limits()
    grace_seconds: float = 10.0
    """Time between SIGTERM and SIGKILL when `stop` names none."""
    correlation_id: str = ""
    """The operation that asked for this instance, kept for tracing only."""


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one instance at one moment. Times are unix microseconds."""

    instance_id: str
    service_id: str
    team: str
    app: str
    component: str
    release: int
    kind: InstanceKind
    state: InstanceState
    host: str
    port: int | None = None
    pid: int | None = None
    user: str = ""
    """The user it runs as: a name, or a number where the user has no name."""
    started_at: int | None = None
    exited_at: int | None = None
    exit_code: int | None = None
    """None while it runs, when a signal ended it, and when nobody was left to see it."""
    signal: int | None = None
    cause: ExitCause | None = None
    reason: str = ""
    """In words, for a person."""


Statuses = list[InstanceStatus]
Lines = list[str]


class Runtime(Protocol):
    """Runs instances on one node. Every call may be repeated: the instance_id names the effect."""

    async def open(self) -> Statuses:
        """Adopt what runs here from earlier platform runs and begin to watch it. Call once, before anything else."""

    async def close(self) -> None:
        """Stop watching. Instances go on running."""

    async def start(self, spec: InstanceSpec) -> InstanceStatus:
        """Make the instance run, at most once in its life; called again, repair a half-done start or say how it stands.

        Raises InvalidSpec, StartFailed, NodeNotUsable.
        """

    async def stop(self, instance_id: str, grace_seconds: float | None = None) -> InstanceStatus:
        """SIGTERM, wait, SIGKILL; returns when every process of the instance is gone. Raises InstanceNotFound."""

    async def signal(self, instance_id: str, number: int) -> None:
        """Send a signal to the instance's main process group. Raises InstanceNotFound."""

    async def list(self) -> Statuses:
        """Everything on this node, of any platform run, that was not removed."""

    async def status(self, instance_id: str) -> InstanceStatus:
        """One instance. Raises InstanceNotFound."""

    async def spec(self, instance_id: str) -> InstanceSpec:
        """What the instance was started with. Raises InstanceNotFound."""

    async def remove(self, instance_id: str) -> None:
        """Delete what an exited instance left, its output included. Absent is done. Raises InstanceStillRunning."""

    def watch(self) -> AsyncIterator[Statuses]:
        """Changes from now on, coalesced per instance: the last state of each always arrives."""

    async def last_lines(self, instance_id: str, count: int = 20) -> Lines:
        """The newest `count` lines of its output, oldest first, while they are still on disk."""

    def log_directory(self, instance_id: str) -> Path:
        """Where the instance's output segments are; the format is documented in actors/runtime/output.py."""
