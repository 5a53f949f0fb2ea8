"""One stream in its owner's memory: the folded state, and how far of it is durable.

Knows how a decision becomes records; knows nothing of who appends them or carries out effects.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from events.log.records import EventRecord
from events.model.base import Envelope, Event
from events.model.component_progress import Effect
from events.model.folding import Folded
from events.model.registry import aggregate_of, apply_record, encode_event

Told = Callable[[Sequence[EventRecord], str], None]
"""Hears of each durable append: its records, and the operation under way in their stream or ""."""


class Entity:
    """The state after every decided event, durable or not; `pending` counts appends whose fate is not known yet.

    `last_offset` is where the last durable event is, `tail` where the last decided one is or will be.
    """

    __slots__ = ("aggregate", "changed", "last_offset", "pending", "state", "stream", "tail", "tasks", "timer",
                 "traceparent", "version")  # fmt: skip

    def __init__(self, stream: str, folded: Folded | None = None) -> None:
        folded = folded or Folded(stream)
        self.stream = stream
        self.aggregate = aggregate_of(stream)
        self.state: msgspec.Struct = folded.state
        self.version = folded.version
        self.last_offset = self.tail = folded.last_offset
        self.pending = 0
        self.traceparent = ""  # of the last command that had one: what follows from it is told below it
        self.changed = asyncio.Event()
        self.tasks: dict[Effect, asyncio.Task[None]] = {}
        self.timer: asyncio.TimerHandle | None = None

    def apply(self, records: Sequence[EventRecord]) -> None:
        """Fold what is on its way to the log."""
        for record in records:
            self.state = apply_record(self.state, record)
            self.version = record.version

    def effects(self) -> list[Effect]:
        """What the world owes this stream, as far as it is durable; empty while an append is in flight."""
        return [] if self.pending else self.aggregate.effects(self.state)

    def rest(self) -> None:
        """Have nothing more follow from it: no deadline, no effect."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for task in self.tasks.values():
            task.cancel()
        self.tasks.clear()

    def notify(self) -> None:
        """Wake whoever waits for this stream to change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def operation_of(self, events: Sequence[Event]) -> str:
        """The operation that events belong to: named by one of them, or the one under way."""
        for event in events:
            operation = getattr(event, "operation", "") or getattr(event, "task", "")
            if operation:
                return str(operation)
        instances = {getattr(event, "instance", "") for event in events}
        for task_operation, task in getattr(self.state, "tasks", {}).items():
            if task.instance and task.instance in instances:
                return str(task_operation)
        return self.running

    @property
    def running(self) -> str:
        """The operation under way, as far as it is decided; "" where there is none."""
        running = getattr(self.state, "operation", None)
        return str(getattr(running, "id", "") or (running if isinstance(running, str) else "") or "")

    def records(self, events: Sequence[Event], envelope: Envelope, at: int) -> list[EventRecord]:
        """The records of a decision, with the versions that follow this entity's own."""
        correlation = envelope.correlation_id or envelope.command_id
        return [
            EventRecord(
                stream=self.stream,
                version=self.version + index,
                type=type(event).__name__,
                schema_version=type(event).schema_version,
                event_id=f"{self.stream}@{self.version + index}",
                at=at,
                command_id=envelope.command_id,
                correlation_id=correlation,
                causation_id=envelope.causation_id or envelope.command_id,
                actor=envelope.actor,
                reason=envelope.reason,
                traceparent=envelope.traceparent,
                body=encode_event(event),
            )
            for index, event in enumerate(events, start=1)
        ]
