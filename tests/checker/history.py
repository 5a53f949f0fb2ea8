"""What every client of a log saw: each append, claim, read and follower with its times and outcome, and a recorder.

Knows the log's port and its errors; judges nothing (rules.py does) and knows no adapter.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TextIO

import msgspec

from events.log.errors import LogError, LogUnavailable
from events.log.port import Committed, EventLog, PartitionWriter
from events.log.records import EventRecord, StoredEvent


class Outcome(Enum):
    OK = "ok"
    REFUSED = "refused"
    """The log promised that nothing was and nothing will be written."""
    UNKNOWN = "unknown"
    """No answer, or the client died waiting."""


class Append(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One sending of one command. Times are nanoseconds of one clock that all clients share.

    `events` are the ids of the events proposed by this very sending, in order. Give each sending ids of its own and
    the checker tells which one the log holds; the same ids again are fine too.
    """

    id: int
    client: str
    partition: int
    command_id: str
    events: tuple[str, ...]
    invoked: int
    ended: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    first: int | None = None
    last: int | None = None
    duplicate: bool = False


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One try to become a partition's owner; `epoch` is None unless it was won."""

    id: int
    client: str
    partition: int
    invoked: int
    ended: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    epoch: int | None = None


class Consumed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What one consumer was handed, in order: (offset, event id).

    `to_tail`: a read that ended at the tail, so it must hold whatever was acknowledged before `invoked`.
    `caught_up`: a follower that was given all the time it needs after the last append.
    """

    id: int
    consumer: str
    partition: int
    from_offset: int
    invoked: int
    events: tuple[tuple[int, str], ...] = ()
    to_tail: bool = False
    caught_up: bool = False


Entry = Append | Claim | Consumed


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was recorded, in any order."""

    appends: tuple[Append, ...] = ()
    claims: tuple[Claim, ...] = ()
    consumed: tuple[Consumed, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "History":
        kept = list(entries)
        return cls(
            appends=tuple(entry for entry in kept if isinstance(entry, Append)),
            claims=tuple(entry for entry in kept if isinstance(entry, Claim)),
            consumed=tuple(entry for entry in kept if isinstance(entry, Consumed)),
        )

    def __add__(self, other: "History") -> "History":
        return History(
            appends=self.appends + other.appends,
            claims=self.claims + other.claims,
            consumed=self.consumed + other.consumed,
        )


class Recorder:
    """Wraps the port's calls and writes down what came of them; every error goes on to the caller.

    With `sink` each entry is also a JSON line, written when the call begins and again when it ends, so that of a
    process that is killed its last call is known as one with an unknown outcome. Read it back with `load`.
    """

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns, sink: TextIO | None = None) -> None:
        self._clock = clock
        self._sink = sink
        self._entries: list[Entry] = []
        self._followed: list[_Followed] = []

    async def append(
        self, client: str, writer: PartitionWriter, command_id: str, events: Sequence[EventRecord]
    ) -> Committed:
        sending = Append(
            id=len(self._entries),
            client=client,
            partition=writer.partition,
            command_id=command_id,
            events=tuple(event.event_id for event in events),
            invoked=self._clock(),
        )
        self._begin(sending)
        try:
            done = await writer.append(command_id, events)
        except LogError as error:
            # Whatever else ends the call (cancelled, a failpoint) leaves the outcome unknown, as it was written down.
            outcome = Outcome.UNKNOWN if isinstance(error, LogUnavailable) else Outcome.REFUSED
            self._end(msgspec.structs.replace(sending, ended=self._clock(), outcome=outcome))
            raise
        self._end(
            msgspec.structs.replace(
                sending,
                ended=self._clock(),
                outcome=Outcome.OK,
                first=done.first.offset,
                last=done.last.offset,
                duplicate=done.duplicate,
            )
        )
        return done

    async def claim(self, client: str, log: EventLog, partition: int, *, force: bool = False) -> PartitionWriter:
        """Claims as owner `client`."""
        trial = Claim(id=len(self._entries), client=client, partition=partition, invoked=self._clock())
        self._begin(trial)
        try:
            writer = await log.claim(partition, client, force=force)
        except LogError as error:
            outcome = Outcome.UNKNOWN if isinstance(error, LogUnavailable) else Outcome.REFUSED
            self._end(msgspec.structs.replace(trial, ended=self._clock(), outcome=outcome))
            raise
        self._end(msgspec.structs.replace(trial, ended=self._clock(), outcome=Outcome.OK, epoch=writer.epoch))
        return writer

    async def read(self, consumer: str, log: EventLog, partition: int, from_offset: int = 0) -> list[StoredEvent]:
        """Read to the tail."""
        invoked = self._clock()
        events: list[StoredEvent] = []
        async for part in log.read(partition, from_offset):
            events += part
        entry = Consumed(
            id=len(self._entries),
            consumer=consumer,
            partition=partition,
            from_offset=from_offset,
            invoked=invoked,
            events=_seen(events),
            to_tail=True,
        )
        self._begin(entry)
        return events

    async def follow(
        self,
        consumer: str,
        log: EventLog,
        from_offsets: Mapping[int, int],
        notice: Callable[[list[StoredEvent]], object] = lambda events: None,
    ) -> None:
        """Follow until cancelled or an error; `notice` is called with each list after it was written down.

        Call `caught_up(consumer)` when the follower was given all the time it needs.
        """
        followed = {
            partition: _Followed(consumer, partition, from_offset, self._clock())
            for partition, from_offset in from_offsets.items()
        }
        self._followed += followed.values()
        async for part in log.follow_all(from_offsets):
            followed[part[0].position.partition].seen += _seen(part)
            notice(part)

    def caught_up(self, consumer: str) -> None:
        """The newest sequences of this follower must reach the log's end."""
        newest = {followed.partition: followed for followed in self._followed if followed.consumer == consumer}
        for followed in newest.values():
            followed.caught_up = True

    def history(self) -> History:
        sequences = (followed.entry(len(self._entries) + n) for n, followed in enumerate(self._followed))
        return History.of([*self._entries, *sequences])

    def _begin(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._write(entry)

    def _end(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        if self._sink is not None:
            self._sink.write(msgspec.json.encode(entry).decode() + "\n")
            self._sink.flush()


class _Followed:
    """A follower's growing sequence of one partition."""

    def __init__(self, consumer: str, partition: int, from_offset: int, invoked: int) -> None:
        self.consumer = consumer
        self.partition = partition
        self.from_offset = from_offset
        self.invoked = invoked
        self.seen: list[tuple[int, str]] = []
        self.caught_up = False

    def entry(self, number: int) -> Consumed:
        return Consumed(
            id=number,
            consumer=self.consumer,
            partition=self.partition,
            from_offset=self.from_offset,
            invoked=self.invoked,
            events=tuple(self.seen),
            caught_up=self.caught_up,
        )


def load(paths: Iterable[Path]) -> History:
    """Histories written by `Recorder(sink=…)`, one file per process; the last line of a killed one may be torn."""
    decoder = msgspec.json.Decoder(Entry)
    entries: dict[tuple[Path, int], Entry] = {}
    for path in paths:
        *whole, _torn = path.read_bytes().split(b"\n")
        for line in whole:
            entry = decoder.decode(line)
            entries[path, entry.id] = entry
    return History.of(entries.values())


def _seen(events: Iterable[StoredEvent]) -> tuple[tuple[int, str], ...]:
    return tuple((event.position.offset, event.record.event_id) for event in events)
