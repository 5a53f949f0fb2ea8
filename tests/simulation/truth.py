"""What was ever written, as no process of a simulated world can know it, and what every snapshot must be by that.

Reads the model's whole history; judges snapshots and recovered states, nothing of what clients saw.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from events.log.codec import decode_batch
from events.log.etcd_claim import EpochRecord
from events.log.keys import Keys
from events.log.records import Position
from events.log.snapshots.contents import open_snapshot
from events.log.snapshots.shelf import SnapshotRecord
from events.model.folding import restored
from events.model.team import TeamState
from tests.simulation.etcd_model import EtcdModel
from tests.simulation.server import SETTINGS

KEYS = Keys(SETTINGS.namespace)


class Fact(NamedTuple):
    """One event: its stream, its id."""

    stream: str
    event_id: str


class Truth:
    """Folds the model's history as it grows."""

    def __init__(self, model: EtcdModel) -> None:
        self._model = model
        self._told = 0
        self._facts: dict[int, list[Fact]] = {}

    def states(self, partition: int, end: int) -> dict[str, list[str]]:
        """Each stream's event ids below offset `end`, in order."""
        self._learn()
        states: dict[str, list[str]] = {}
        for fact in self._facts.get(partition, [])[:end]:
            states.setdefault(fact.stream, []).append(fact.event_id)
        return states

    def tail(self, partition: int) -> int:
        """How many events there are."""
        self._learn()
        return len(self._facts.get(partition, []))

    def _learn(self) -> None:
        changes = self._model.changes
        for change in (change for changes in changes[self._told :] for change in changes):
            place = None if change.deleted else KEYS.parse_batch(change.item.key.decode())
            if place is not None:
                self.add(*place, change.item.value)
        self._told = len(changes)

    def add(self, partition: int, base: int, value: bytes) -> None:
        """A batch. One that is put again, or over another, changes what the log holds: the checker tells of that."""
        known = self._facts.setdefault(partition, [])
        facts = [Fact(record.stream, record.event_id) for record in decode_batch(value, Position(partition, base))[1]]
        known[base : base + len(facts)] = facts


def judge_snapshots(model: EtcdModel, ever: Mapping[str, bytes], partitions: int) -> Iterator[str]:
    """What is wrong with any snapshot that a record ever pointed at, in the order they came."""
    snapshots = {KEYS.snapshot(partition).encode(): partition for partition in range(partitions)}
    epochs = {KEYS.epoch(partition).encode(): partition for partition in range(partitions)}
    newest = dict.fromkeys(range(partitions), 0)
    truth = Truth(EtcdModel())
    for change in (change for changes in model.changes for change in changes if not change.deleted):
        item = change.item
        if (place := KEYS.parse_batch(item.key.decode())) is not None:
            truth.add(*place, item.value)
        elif (partition := epochs.get(item.key, -1)) >= 0:
            newest[partition] = msgspec.json.decode(item.value, type=EpochRecord).epoch
        elif (partition := snapshots.get(item.key, -1)) >= 0:
            record = msgspec.json.decode(item.value, type=SnapshotRecord)
            found = _wrong(record, ever[record.location], truth, partition, newest[partition])
            if found:
                yield f"SNAPSHOT: {record.location} at revision {item.mod_revision}: {found}"


def _wrong(record: SnapshotRecord, blob: bytes, truth: Truth, partition: int, newest: int) -> str:
    epoch = int(record.location.rpartition("/")[2].split("-")[1], 16)
    if epoch != newest:
        return f"pointed at under epoch {epoch}, while {newest} has the partition"
    if record.offset > truth.tail(partition):
        return f"covers {record.offset} events, and the log had {truth.tail(partition)}"
    fold = restored(open_snapshot(blob))
    wanted = truth.states(partition, record.offset)
    found = {}
    for stream, folded in fold.states.items():
        assert isinstance(folded.state, TeamState)
        if folded.version:
            found[stream] = list(folded.state.tokens)
    differing = sorted(stream for stream in wanted.keys() | found.keys() if wanted.get(stream) != found.get(stream))
    return f"other states than the log gives: {differing}" if differing else ""
