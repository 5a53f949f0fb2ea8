"""The errors of the replay tools: all of them say what was asked, what was found, and what to ask instead."""


class ReplayError(Exception):
    """Base of everything these tools raise on purpose."""


class NoSuchStream(ReplayError):
    """The log holds no event of that stream, or the text names no stream."""


class NoSuchMoment(ReplayError):
    """The time, version or offset asked for is none that this stream has."""


class BadTime(ReplayError):
    """A text that is no time."""


class NoSuchField(ReplayError):
    """The state has no such field."""


class BadCommand(ReplayError):
    """What was given as a command is none of that stream's."""


class BadReducer(ReplayError):
    """What was named as an `apply` cannot be loaded, or is none."""


class BadHistoryFile(ReplayError):
    """An exported file is damaged, cut off, of another version, or none at all. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


class CheckFailed(ReplayError):
    """A fold in a process of its own did not come to an end."""
