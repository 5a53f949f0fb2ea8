"""A claim of one partition in etcd: winning it, writing slots under its epoch, keeping its owner record alive.

Knows the transactions of the design page; nothing of queues, commands or readers.
"""

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable

import msgspec

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.archive.manifest import decode_low
from events.log.codec import decode_header
from events.log.errors import EtcdRefused, Fenced, LogBroken, LogUnavailable, PartitionOwned
from events.log.etcd_client import EtcdClient
from events.log.etcd_group import GroupCommit
from events.log.etcd_wire import Get, KeyValue, ModRevisionIs, Put, TxnResult, VersionIs
from events.log.keys import Keys
from events.log.port import OwnerRecord
from events.log.records import Position
from events.log.snapshots.shelf import PointedAt
from events.log.store import StoredBatch

LEASE_TTL_S = 10
KEEP_S = LEASE_TTL_S / 3
CLAIM_DEADLINE_S = 15.0
ATTEMPT_TIMEOUT_S = 3.0
"""One attempt of an append. Then the identical transaction is sent again, for ever."""
RESEND_FIRST_S = 0.05
RESEND_MOST_S = 1.0


FindArchived = Callable[[int, int], Awaitable[StoredBatch | None]]
"""(partition, base) -> the batch that begins there, wherever it is kept."""


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The fence. `claim_id` tells whose claim it was when the reply to a claim got lost."""

    epoch: int
    claim_id: str
    owner: str


class EtcdClaim:
    """One won claim. `slots` of a writer; `keep` runs beside it and tells when the partition was claimed by another."""

    def __init__(
        self,
        *,
        client: EtcdClient,
        appends: GroupCommit,
        keys: Keys,
        partition: int,
        record: OwnerRecord,
        epoch_revision: int,
        lease: int,
        archived: FindArchived,
    ) -> None:
        self._client = client
        self._appends = appends
        self._keys = keys
        self.partition = partition
        self.record = record
        self._epoch_revision = epoch_revision
        self._lease = lease
        self._archived = archived

    async def commit(self, *, base: int, previous: int | None, txn_id: str, value: bytes) -> int:
        """See `BatchSlots.commit`: one new key, compared with the fence, the predecessor and its own absence."""
        slot = self._keys.batch(self.partition, base)
        when: list[ModRevisionIs | VersionIs] = [
            # Fence: nobody has claimed since I did.
            ModRevisionIs(self._keys.epoch(self.partition), self._epoch_revision),
            # Free slot: of two copies of this transaction at most one commits.
            VersionIs(slot, 0),
        ]
        # Chain: no hole, and a request delayed past the archiving of its slot cannot bring it back. The first batch has
        # no predecessor: for it, nothing was ever archived.
        if previous is not None:
            when.append(VersionIs(self._keys.batch(self.partition, previous), 1))
        else:
            when.append(VersionIs(self._keys.low(self.partition), 0))
        pause = RESEND_FIRST_S
        while True:
            try:
                answer = await self._appends.txn(
                    when=when,
                    then=[Put(slot, value)],
                    otherwise=[
                        Get(self._keys.epoch(self.partition)),
                        Get(slot),
                        Get(self._keys.low(self.partition)),
                    ],
                )
                failpoint("log.append.answered")
                return answer.revision if answer.succeeded else await self._decide(answer, base, txn_id)
            except LogUnavailable:
                # Unknown: it may have committed. Only the identical transaction can tell.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pause = min(2 * pause, RESEND_MOST_S)

    async def _decide(self, answer: TxnResult, base: int, txn_id: str) -> int:
        """What a refused transaction means. The order matters: mine first, for I may have won before I was fenced."""
        epoch, slot, low = answer.found
        if slot is not None and decode_header(slot.value, Position(self.partition, base)).txn_id == txn_id:
            return slot.mod_revision
        if slot is None and low is not None and decode_low(low.value, low.key).first_hot > base:
            # It may have won so long ago that it was archived since: the segment keeps the transaction's id.
            kept = await self._find_archived(base)
            if kept is not None and decode_header(kept.value, Position(self.partition, base)).txn_id == txn_id:
                return kept.revision
        if epoch is None or epoch.mod_revision != self._epoch_revision:
            raise self._fenced(epoch)
        raise LogBroken(
            f"partition {self.partition}: expected offset {base} to be free and its predecessor present under epoch "
            f"{self.record.epoch}, found {'a foreign batch there' if slot else 'no predecessor'}; "
            "something else writes or deletes this log's keys"
        )

    async def _find_archived(self, base: int) -> StoredBatch | None:
        try:
            return await self._archived(self.partition, base)
        except LogBroken as error:
            # Nothing that was acknowledged may be called lost, nor the reverse: unknown, until the archive is whole.
            raise LogUnavailable(f"partition {self.partition}: the batch at {base} is archived: {error}") from error

    async def hint(self, base: int) -> None:
        """See `BatchSlots.hint`. Under the fence, so that a late one of an old owner changes nothing."""
        try:
            await self._client.txn(when=[self._fence()], then=[Put(self._keys.tail_hint(self.partition), b"%d" % base)])
        except (LogUnavailable, EtcdRefused):
            # Only a hint: the next claim walks further.
            pass

    async def snapshot_record(self) -> PointedAt:
        """See `SnapshotPointer`."""
        stored = await self._client.get(self._keys.snapshot(self.partition))
        return PointedAt(None, 0) if stored is None else PointedAt(stored.value, stored.mod_revision)

    async def point_at_snapshot(self, seen: PointedAt, record: bytes) -> bool:
        """See `SnapshotPointer`. A late copy of this transaction finds another record than it saw, or another epoch."""
        key = self._keys.snapshot(self.partition)
        answer = await self._client.txn(
            when=[self._fence(), ModRevisionIs(key, seen.revision)], then=[Put(key, record)]
        )
        return answer.succeeded

    async def give_up(self, last_base: int | None) -> None:
        """See `BatchSlots.give_up`."""
        async with asyncio.TaskGroup() as both:
            if last_base is not None:
                both.create_task(self.hint(last_base))
            both.create_task(self._let_lease_go())

    async def _let_lease_go(self) -> None:
        """With it goes the owner record, if it is still this claim's: a successor's is on the successor's lease."""
        try:
            await self._client.revoke_lease(self._lease)
        except (LogUnavailable, EtcdRefused):
            # The lease lapses by itself.
            pass

    async def keep(self, on_fenced: Callable[[Fenced], None]) -> None:
        """Keep the owner record alive until cancelled, or until another's claim is seen.

        The record is for discovery only. A lapsed lease with no successor does not stop the writer: it is renewed.
        """
        # An owner claims its partitions together and would renew them all at one moment, which held up its work. By the
        # golden ratio the moments of any number of them lie apart.
        pause = KEEP_S * (1 - self.partition * 0.618 % 1)
        while True:
            await asyncio.sleep(pause)
            pause = KEEP_S
            try:
                if await self._client.keep_lease_alive(self._lease) <= 0:
                    await self._renew()
                epoch = await self._client.get(self._keys.epoch(self.partition))
            except (LogUnavailable, EtcdRefused):
                continue
            if epoch is None or epoch.mod_revision != self._epoch_revision:
                on_fenced(self._fenced(epoch))
                return

    async def _renew(self) -> None:
        self._lease = await self._client.grant_lease(LEASE_TTL_S)
        own = Put(self._keys.own(self.partition), msgspec.json.encode(self.record), self._lease)
        await self._client.txn(when=[self._fence()], then=[own])

    def _fence(self) -> ModRevisionIs:
        return ModRevisionIs(self._keys.epoch(self.partition), self._epoch_revision)

    def _fenced(self, epoch: KeyValue | None) -> Fenced:
        found = "none" if epoch is None else epoch.value.decode(errors="replace")
        return Fenced(
            f"partition {self.partition}: expected my epoch {self.record.epoch}, found {found}; "
            "another owner serves it now: stop, and claim again only if told to"
        )


async def win_claim(
    client: EtcdClient,
    appends: GroupCommit,
    keys: Keys,
    partition: int,
    owner: str,
    *,
    force: bool,
    archived: FindArchived,
) -> EtcdClaim:
    """Raise the epoch and put the owner record, in one transaction; `appends` is the process's. Raises as
    `EventLog.claim`."""
    lease = await client.grant_lease(LEASE_TTL_S)
    try:
        async with asyncio.timeout(CLAIM_DEADLINE_S):
            record, epoch_revision = await _try_claim(client, keys, partition, owner, lease, force=force)
    except TimeoutError as error:
        raise LogUnavailable(
            f"partition {partition}: expected an answer to the claim within {CLAIM_DEADLINE_S:g} s; claim again"
        ) from error
    except PartitionOwned:
        await client.revoke_lease(lease)
        raise
    return EtcdClaim(
        client=client,
        appends=appends,
        keys=keys,
        partition=partition,
        record=record,
        epoch_revision=epoch_revision,
        lease=lease,
        archived=archived,
    )


async def _try_claim(
    client: EtcdClient, keys: Keys, partition: int, owner: str, lease: int, *, force: bool
) -> tuple[OwnerRecord, int]:
    """The owner record of the claim that won, and the revision of its fence."""
    claim_id = uuid.uuid4().hex
    while True:
        epoch_key, own_key = await client.get(keys.epoch(partition)), await client.get(keys.own(partition))
        seen = None if epoch_key is None else msgspec.json.decode(epoch_key.value, type=EpochRecord)
        own = None if own_key is None else msgspec.json.decode(own_key.value, type=OwnerRecord)
        # The two reads are not one: the owner record may be a successor's already, and its epoch is not mine.
        mine = seen is not None and own is not None and seen.claim_id == claim_id and own.epoch == seen.epoch
        if epoch_key is not None and own is not None and mine:
            # The reply to an earlier try was lost, but it won.
            return own, epoch_key.mod_revision
        if own is not None and own.owner != owner and not force:
            raise PartitionOwned(
                f"partition {partition}: expected no owner, found {own.owner} (node {own.node}, pid {own.pid}); "
                "wait for its release, or claim with force"
            )
        record = OwnerRecord(
            owner=owner,
            node=socket.gethostname(),
            pid=os.getpid(),
            epoch=1 if seen is None else seen.epoch + 1,
            claimed_at=now_micros(),
        )
        fence = EpochRecord(epoch=record.epoch, claim_id=claim_id, owner=owner)
        try:
            answer = await client.txn(
                when=[
                    ModRevisionIs(keys.epoch(partition), 0 if epoch_key is None else epoch_key.mod_revision),
                    ModRevisionIs(keys.own(partition), 0 if own_key is None else own_key.mod_revision),
                ],
                then=[
                    Put(keys.epoch(partition), msgspec.json.encode(fence)),
                    Put(keys.own(partition), msgspec.json.encode(record), lease),
                ],
            )
        except LogUnavailable:
            await asyncio.sleep(RESEND_FIRST_S)
            continue
        if answer.succeeded:
            failpoint("log.claim.won")
            return record, answer.revision
