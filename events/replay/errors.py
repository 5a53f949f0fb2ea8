"""The errors of the replay tools: all of them say what was asked, what was found, and what to ask instead."""


class ReplayError(Exception):
    """Base of everything these tools raise on purpose."""


class NoSuchStream(ReplayError):
    """The log holds no event of that stream, or the text names no stream."""


class NoSuchMoment(ReplayError):
    """The time, version or offset asked for is none that this stream has."""


class BadTime(ReplayError):
    """A text that is no time."""
