"""The errors of the read models, one hierarchy, so that a caller can tell a bad request from a database in trouble.

Must not know HTTP status codes nor Ray.
"""


class ProjectionsError(Exception):
    """Base of everything this package raises on purpose."""


class BadCursor(ProjectionsError):
    """A paging cursor that no list of this version gave out: malformed, or of another list."""


class DatabaseUnavailable(ProjectionsError):
    """The database did not answer, or refused every bounded retry; nothing was committed. Try again later."""


class AmbiguousCommit(DatabaseUnavailable):
    """The connection was lost while committing: the checkpoint, read again, says whether it happened."""


class CheckpointMoved(ProjectionsError):
    """The checkpoint is not where this projector left it: somebody else folded, or our lost commit did happen."""


class WriteFailed(ProjectionsError):
    """The database refused rows for what is in them; trying again cannot help."""


class NewerProjection(ProjectionsError):
    """The read models were folded by a newer version of this program."""


class UnknownProjection(ProjectionsError):
    """No read model of that name."""


class HistoryLost(ProjectionsError):
    """The log does not hold what the read models have folded: it was restored from before their checkpoint."""
