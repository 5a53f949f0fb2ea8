"""Every way a build can be refused or fail, as one hierarchy with a stable code each.

Callers turn these into outcomes and problem documents; this module knows nothing of how a build is run.
"""


class BuilderError(Exception):
    """Base of the builder's errors: `code` is stable, the message says expected, found and what to do.

    `lines` are the few lines of output that explain the failure (may be empty).
    """

    code = "build_failed"

    def __init__(self, message: str, *, code: str | None = None, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.lines = lines


class SourceError(BuilderError):
    """The source cannot be had, or is refused because it is unsafe or too big."""

    code = "source_refused"


class DetectionError(BuilderError):
    """What the directory holds does not say how to build it."""

    code = "nothing_detected"


class ProcfileError(BuilderError):
    """The Procfile does not parse, or names a process that no component can be called."""

    code = "procfile_invalid"


class SettingsError(BuilderError):
    """`rayfold.toml` does not parse or holds a value of the wrong type."""

    code = "settings_invalid"


class StepFailedError(BuilderError):
    """A command of the build ended with a status other than 0."""

    code = "step_failed"


class StepTimedOutError(BuilderError):
    """A step took longer than it may, and was stopped."""

    code = "step_timed_out"


class ToolMissingError(BuilderError):
    """A language's interpreter or package tool is not there, or the build's user cannot execute it."""

    code = "tool_missing"


class ContainerError(BuilderError):
    """The container engine or a registry is missing, away or refuses."""

    code = "container_fault"


class ArtifactError(BuilderError):
    """Base of what can go wrong with stored artifacts."""

    code = "artifact_error"


class ArtifactMissingError(ArtifactError):
    """The store holds nothing under this digest."""

    code = "artifact_missing"


class ArtifactDamagedError(ArtifactError):
    """The stored bytes do not hash to the name they are stored under."""

    code = "artifact_damaged"


class PackError(BuilderError):
    """A directory cannot be packed for upload."""

    code = "pack_refused"
