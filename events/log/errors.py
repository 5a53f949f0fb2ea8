"""Every error the event log raises, one hierarchy, each saying what the caller may assume.

Knows nothing of etcd or of what events mean.
"""

from events.log.records import Position


class LogError(Exception):
    """Base of everything the event log raises on purpose."""


class InvalidAppend(LogError):
    """The command or its events cannot be stored as given. Nothing was written; repeating it unchanged fails again."""


class EventTooLarge(InvalidAppend):
    """One command's events exceed the cap of a batch. Refused by itself: commands that share its batch commit."""


class VersionConflict(LogError):
    """An event's version does not continue its stream. Nothing was written; fold the newer events, decide again."""

    def __init__(self, *, stream: str, expected: int, found: int) -> None:
        super().__init__(
            f"stream {stream}: expected an event of version {expected}, found version {found}; "
            "fold the events in between and decide again"
        )
        self.stream = stream
        self.expected = expected
        self.found = found


class WriterClosed(LogError):
    """The writer was released. Nothing of this append was written; claim the partition again."""


class Fenced(WriterClosed):
    """Another owner claimed the partition: stop at once. No append that was not acknowledged by now will commit."""


class Overloaded(LogError):
    """The bounded queue is full. Nothing of this append was written or will be; try again later."""


class LogFull(LogError):
    """The log takes nothing new until its store has room again. Nothing of this append was written or will be.

    What is read, and the result of a command that committed before, is answered as ever.
    """

    def __init__(self, *, used_bytes: int, budget_bytes: int, advice: str) -> None:
        super().__init__(
            f"expected the log to hold at most {budget_bytes} bytes in etcd, found {used_bytes}; {advice}, "
            "and repeat the same command id later"
        )
        self.used_bytes = used_bytes
        self.budget_bytes = budget_bytes
        self.advice = advice


class LogUnavailable(LogError):
    """The log did not answer within the deadline, so the outcome is *unknown*: it may have committed or still commit.

    An append that raised this stays queued and the writer goes on resolving it with the identical transaction. The
    caller must not decide anew: it repeats the same command id, which joins the append or returns its first result.
    """


class ArchiveUnavailable(LogUnavailable):
    """The archive did not answer, or refused; the message says which. Cold events can be neither read nor moved now."""


class PartitionOwned(LogError):
    """The claim was refused because another owner's lease is alive. Wait for it to lapse, or claim with `force`."""


class LayoutMismatch(LogError):
    """The stored log was made with another layout than this process was given. Nothing was changed."""


class RestoreUnfinished(LogError):
    """A backup is being restored here, or a restore was cut off. Nothing was changed; run the restore again."""


class LogBroken(LogError):
    """An invariant does not hold; serving on would make it worse. An operator must look."""


class EtcdRefused(LogError):
    """etcd understood the request and refused it (permission, argument, unknown lease). It was not applied."""


class Compacted(LogError):
    """A watch asked for history that etcd has compacted. List again, and watch from the listing's revision + 1."""


class EtcdStartFailed(LogError):
    """The embedded etcd cannot be found, or does not come up; the message holds the last lines it said."""


class LogDamaged(LogBroken):
    """Stored bytes are not what was written, or are missing; the message names the place. To ask again helps nobody:
    only whoever puts them back does. What is elsewhere can be read all the same. `position`: where the events are
    that cannot be read, if it is known."""

    position: Position | None = None


class CorruptBatch(LogDamaged):
    """A stored batch cannot be decoded or fails its checksum; `position` is where it begins."""

    position: Position

    def __init__(self, position: Position, why: str) -> None:
        super().__init__(f"batch at {position} is corrupt: {why}; restore it from a backup or an archived segment")
        self.position = position
        self.why = why


class CorruptSegment(LogDamaged):
    """An archived segment is not what its manifest says; `position` is the batch in it that is damaged.

    Where no batch can be told (it is cut short, its index is damaged) `position` is where the segment begins.
    """

    position: Position

    def __init__(self, position: Position, location: str, why: str) -> None:
        super().__init__(f"archived segment {location} is corrupt at {position}: {why}; restore it from a backup")
        self.position = position
        self.location = location
        self.why = why


class LogHole(LogDamaged):
    """The offsets from `position` on are absent although later ones exist."""

    def __init__(self, position: Position, next_base: int) -> None:
        super().__init__(
            f"expected a batch that holds {position}, found the next one at offset {next_base}; "
            "no archived segment holds these events either: restore them from a backup"
        )
        self.position = position


class BeyondTail(LogBroken):
    """Asked to read from an offset the log has not reached: its history is older than the caller's checkpoint."""

    def __init__(self, position: Position, tail: int) -> None:
        super().__init__(
            f"expected to read from {position}, found the tail at offset {tail}; the log was restored from before "
            "this checkpoint: rebuild whatever keeps it"
        )
        self.position = position
        self.tail = tail


class LogRewritten(LogBroken):
    """The log does not hold any more what this reader has read of it: it was restored from an older state."""

    def __init__(self, position: Position) -> None:
        super().__init__(
            f"expected the batch at {position} that was read before, found it gone or another; the log was restored "
            "from before it: rebuild whatever keeps what was read"
        )
        self.position = position


class BlobMissing(LogDamaged):
    """The archive has no blob of this name although something points at it. `position`: of the events in it."""

    def __init__(self, name: str, position: Position | None = None) -> None:
        what = f"a blob {name}" if position is None else f"segment {name} with the events from {position} on"
        super().__init__(f"expected {what} in the archive, found none; restore it from a backup of the archive")
        self.name = name
        self.position = position
