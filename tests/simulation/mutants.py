"""Defects on purpose: production code with one guarantee taken out, which the simulation must notice.

Each is a context manager; knows the lines that keep a guarantee and how to break them.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from actors.supervisor.snapshots import SnapshotTaker
from events.log import etcd_claim, etcd_log, recovery
from events.log.archive.archiver import Archiver
from events.log.archive.compactor import Compactor
from events.log.archive.space import SpaceWatch
from events.log.archive.tiers import TieredStore
from events.log.errors import LogUnavailable
from events.log.etcd_claim import EtcdClaim
from events.log.etcd_client import EtcdClient
from events.log.etcd_hub import WatchHub
from events.log.etcd_members import EtcdMembers
from events.log.etcd_store import EtcdStore
from events.log.etcd_wire import Put, TxnResult, VersionIs
from events.log.ledger import CommandLedger, StreamVersions
from events.log.reader import _Cursor
from events.log.store import StoredBatch
from events.log.writer import BatchingWriter
from events.replay import current

Mutant = Callable[[], AbstractContextManager[None]]


def _appends(then: Any) -> bool:
    return any(isinstance(operation, Put) and "/b/" in operation.key for operation in then)


@contextmanager
def _with_other_conditions(keep: Callable[[Any], bool]) -> Iterator[None]:
    """Appends whose transaction compares only what `keep` keeps."""
    original = EtcdClient.txn

    async def txn(self: EtcdClient, *, when: Any = (), then: Any = (), **rest: Any) -> TxnResult:
        if _appends(then):
            when = [condition for condition in when if keep(condition)]
        return await original(self, when=when, then=then, **rest)

    with patch.object(EtcdClient, "txn", txn):
        yield


@contextmanager
def append_without_the_fence() -> Iterator[None]:
    """The epoch is not compared."""
    with _with_other_conditions(lambda condition: not condition.key.endswith("/epoch")):
        yield


@contextmanager
def append_over_what_is_there() -> Iterator[None]:
    """That the slot is free is not compared."""
    with _with_other_conditions(lambda condition: not (isinstance(condition, VersionIs) and condition.version == 0)):
        yield


@contextmanager
def append_without_the_predecessor() -> Iterator[None]:
    """That the batch before is there is not compared."""
    with _with_other_conditions(lambda condition: not (isinstance(condition, VersionIs) and condition.version == 1)):
        yield


@contextmanager
def acknowledge_on_timeout() -> Iterator[None]:
    """No answer is taken for a yes."""
    original = EtcdClient.txn

    async def txn(self: EtcdClient, *, then: Any = (), **rest: Any) -> TxnResult:
        try:
            return await original(self, then=then, **rest)
        except LogUnavailable:
            if not _appends(then):
                raise
            return TxnResult(True, 1, ())

    with patch.object(EtcdClient, "txn", txn):
        yield


@contextmanager
def resend_under_another_id() -> Iterator[None]:
    """What comes back as mine is not known again: each resend has an id of its own."""
    original = EtcdClaim._decide

    async def decide(self: EtcdClaim, answer: TxnResult, base: int, txn_id: str) -> int:
        return await original(self, answer, base, f"{txn_id}-again")

    with patch.object(EtcdClaim, "_decide", decide):
        yield


@contextmanager
def see_the_fence_before_my_batch() -> Iterator[None]:
    """A refused transaction means fenced, though the first copy of it had won."""
    original = EtcdClaim._decide

    async def decide(self: EtcdClaim, answer: TxnResult, base: int, txn_id: str) -> int:
        epoch = answer.found[0]
        if epoch is None or epoch.mod_revision != self._epoch_revision:
            raise self._fenced(epoch)
        return await original(self, answer, base, txn_id)

    with patch.object(EtcdClaim, "_decide", decide):
        yield


@contextmanager
def claim_without_comparing() -> Iterator[None]:
    """A claim takes the epoch whoever took it meanwhile."""
    original = EtcdClient.txn

    async def txn(self: EtcdClient, *, when: Any = (), then: Any = (), **rest: Any) -> TxnResult:
        if any(isinstance(operation, Put) and operation.key.endswith("/epoch") for operation in then):
            when = ()
        return await original(self, when=when, then=then, **rest)

    with patch.object(EtcdClient, "txn", txn):
        yield


@contextmanager
def forget_the_commands_at_claim() -> Iterator[None]:
    """The new owner's ledger is empty."""
    with _recovering(lambda recovered: msgspec.structs.replace(recovered, ledger=CommandLedger(0))):
        yield


@contextmanager
def forget_the_tail_at_claim() -> Iterator[None]:
    """The new owner knows all but the last batch's commands: it looked before it claimed."""
    original = etcd_claim.win_claim
    real = recovery.recover

    async def win_claim(client: Any, appends: Any, keys: Any, partition: int, *given: Any, **rest: Any) -> EtcdClaim:
        store = etcd_log.EtcdStore(client, keys)
        looked[partition, id(client)] = await real(store, partition)
        return await original(client, appends, keys, partition, *given, **rest)

    async def recover(store: Any, partition: int, *rest: Any, **more: Any) -> Any:
        now = await real(store, partition, *rest, **more)
        before = looked[partition, id(store._client)]
        return msgspec.structs.replace(now, ledger=before.ledger, versions=StreamVersions())

    looked: dict[tuple[int, int], Any] = {}
    with patch.object(etcd_log, "win_claim", win_claim), patch.object(etcd_log, "recover", recover):
        yield


@contextmanager
def _recovering(change: Callable[[Any], Any]) -> Iterator[None]:
    original = recovery.recover

    async def recover(*given: Any, **more: Any) -> Any:
        return change(await original(*given, **more))

    with patch.object(etcd_log, "recover", recover):
        yield


@contextmanager
def do_not_say_that_a_watch_is_new() -> Iterator[None]:
    """Followers are not told to page what the old watch may have missed."""
    original = WatchHub._deliver

    def deliver(self: WatchHub, notice: Any) -> None:
        original(self, msgspec.structs.replace(notice, created=False))

    with patch.object(WatchHub, "_deliver", deliver):
        yield


@contextmanager
def believe_the_watch() -> Iterator[None]:
    """What arrives next is taken for what comes next."""

    def follows(self: _Cursor, batch: StoredBatch) -> bool:
        self.base = self.expected = max(self.expected, batch.base)
        return True

    with patch.object(_Cursor, "follows", follows):
        yield


@contextmanager
def hand_out_again_what_comes_again() -> Iterator[None]:
    """A follower that pages anew begins at its page's start."""
    original = _Cursor.advance

    async def advance(self: _Cursor, *given: Any) -> Any:
        self.expected = self.base = max(0, self.base - 1) if self.expected == self.base else self.base
        return await original(self, *given)

    with patch.object(_Cursor, "advance", advance):
        yield


@contextmanager
def acknowledge_before_it_is_written() -> Iterator[None]:
    """Whoever waits is told while the batch is still on its way."""
    original = EtcdClaim.commit

    async def commit(self: EtcdClaim, **given: Any) -> int:
        task = asyncio.create_task(original(self, **given))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return 0

    with patch.object(EtcdClaim, "commit", commit):
        yield


@contextmanager
def refuse_what_may_be_written() -> Iterator[None]:
    """A writer that stops tells what is in flight that nothing of it was written."""
    original = BatchingWriter._on_task_done

    def done(self: BatchingWriter, task: Any) -> None:
        self._queue.extendleft(reversed(self._in_flight))
        self._in_flight = []
        original(self, task)

    with patch.object(BatchingWriter, "_on_task_done", done):
        yield


@contextmanager
def delete_before_it_is_recorded() -> Iterator[None]:
    """The archiver deletes a segment's batches, then says where they are."""
    original = EtcdStore.record

    async def record(self: EtcdStore, partition: int, seen: Any, manifest: Any) -> bool:
        for base in await self.bases(partition, manifest.base, manifest.end):
            await self._client.delete(self._keys.batch(partition, base))
        return await original(self, partition, seen, manifest)

    with patch.object(EtcdStore, "record", record):
        yield


@contextmanager
def archive_the_last_batch_too() -> Iterator[None]:
    """Nothing is left for the next append to compare with."""
    original = Archiver._choose

    async def choose(self: Archiver, partition: int, base: int, reach: Any) -> list[StoredBatch]:
        chosen = await original(self, partition, base, reach)
        page = await self._hot.page(partition, base)
        return page if 0 < len(chosen) < len(page) <= len(chosen) + 1 else chosen

    with patch.object(Archiver, "_choose", choose):
        yield


@contextmanager
def move_the_mark_without_comparing() -> Iterator[None]:
    """Of two archivers the second writes over what the first recorded."""
    original = EtcdClient.txn

    async def txn(self: EtcdClient, *, when: Any = (), then: Any = (), **rest: Any) -> TxnResult:
        if any(isinstance(operation, Put) and operation.key.endswith("/low") for operation in then):
            when = ()
        return await original(self, when=when, then=then, **rest)

    with patch.object(EtcdClient, "txn", txn):
        yield


@contextmanager
def read_hot_batches_only() -> Iterator[None]:
    """Where nothing is hot, nothing is."""

    async def page(self: TieredStore, partition: int, base: int) -> list[StoredBatch]:
        return await self._hot.page(partition, base)

    with patch.object(TieredStore, "page", page):
        yield


@contextmanager
def do_not_look_at_the_mark_after_the_page() -> Iterator[None]:
    """What was archived between two reads is taken for the tail."""
    original = TieredStore.page

    async def page(self: TieredStore, partition: int, base: int) -> list[StoredBatch]:
        if base < self._low.get(partition, 0):
            return await original(self, partition, base)
        return await self._hot.page(partition, base)

    with patch.object(TieredStore, "page", page):
        yield


@contextmanager
def point_at_a_snapshot_without_the_fence() -> Iterator[None]:
    """Whoever has a snapshot points at it, also one that does not own the partition any more."""
    original = EtcdClient.txn

    async def txn(self: EtcdClient, *, when: Any = (), then: Any = (), **rest: Any) -> TxnResult:
        if any(isinstance(operation, Put) and operation.key.endswith("/snap") for operation in then):
            when = ()
        return await original(self, when=when, then=then, **rest)

    with patch.object(EtcdClient, "txn", txn):
        yield


@contextmanager
def take_a_snapshot_of_what_is_not_written_yet() -> Iterator[None]:
    """A cut is kept at once, whatever of it is still on its way."""
    original = SnapshotTaker.__init__

    class Ahead:
        next_offset = 1 << 60

        def __init__(self, writer: Any) -> None:
            self.partition = writer.partition

    def init(self: SnapshotTaker, *, writer: Any, cut: Any, **rest: Any) -> None:
        def hurried() -> Any:
            taken = cut()
            return None if taken is None else taken._replace(appends=())

        original(self, writer=Ahead(writer), cut=hurried, **rest)  # type: ignore[arg-type]

    with patch.object(SnapshotTaker, "__init__", init):
        yield


@contextmanager
def take_the_states_of_another_fold() -> Iterator[None]:
    """Whichever version of the fold made a snapshot, its states are taken."""
    with patch.object(current, "_restore", current.restored):
        yield


@contextmanager
def forget_the_commands_of_a_snapshot() -> Iterator[None]:
    """The new owner knows the commands after the snapshot only."""

    def restored(snapshot: Any, partition: int, window: int) -> tuple[CommandLedger, StreamVersions]:
        return CommandLedger(partition, window), StreamVersions(window)

    with patch.object(recovery, "_restored", restored):
        yield


@contextmanager
def never_refuse() -> Iterator[None]:
    """The gate is open, however full etcd is."""
    with patch.object(SpaceWatch, "refuse", lambda self: None):
        yield


@contextmanager
def refuse_for_ever() -> Iterator[None]:
    """A gate that closed stays closed."""
    original = SpaceWatch._judge

    def judge(self: SpaceWatch) -> None:
        was = self._full
        original(self)
        self._full = self._full or was

    with patch.object(SpaceWatch, "_judge", judge):
        yield


@contextmanager
def archive_without_compacting() -> Iterator[None]:
    """What was archived is deleted, and etcd never told to forget it."""

    async def now(self: Compactor, now_us: int) -> None:
        pass

    async def tick(self: Compactor, now_us: int) -> bool:
        return False

    with patch.object(Compactor, "now", now), patch.object(Compactor, "tick", tick):
        yield


@contextmanager
def leave_the_alarm_on() -> Iterator[None]:
    """Room is made in an etcd that ran full, and it is not told to take writes again."""

    async def disarm(self: EtcdMembers) -> None:
        pass

    with patch.object(EtcdMembers, "disarm_no_space", disarm):
        yield
