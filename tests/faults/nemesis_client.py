"""A client process of the nemesis run: an owner, a follower, a reader, an archiver; what it saw goes to a file.

Knows the log's port and nothing of the faults: it is killed, paused and cut off like any client. SIGTERM tells it to
come to an end; its last act is to write down what it has not yet.
"""

import asyncio
import contextlib
import random
import signal
import sys
from pathlib import Path

import msgspec

from events.log.archive.archiver import ArchivePolicy
from events.log.archive.keeper import ROUND_S, LogKeeper
from events.log.archive.space import Budget
from events.log.blobs import DirectoryBlobs
from events.log.errors import LogBroken, LogError, LogUnavailable, WriterClosed
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_members import EtcdMembers
from events.log.port import PartitionWriter
from events.log.records import EventRecord, StoredEvent
from tests.checker.history import Outcome, Recorder, load
from tests.events.log.contract import event

APPENDERS = 4
"""Concurrent senders for each claimed partition."""
PAUSE_SECONDS = 0.02
UP = ".up"
"""Suffix of an empty file that says that the process serves."""
SENDINGS_MAX = 3
FORCED_SHARE = 0.04
REPEATED_SHARE = 0.05
REIGN_SECONDS = 8.0
CATCH_UP_SECONDS = 60.0
READ_BACK = 400
ARCHIVE_EVERY_ROUNDS = 5
"""As `rayfold log archive` does it by hand: a day's age is five minutes' rounds, and this run is shorter."""
RETAIN_SECONDS = 3.0
SEGMENT_BYTES = 64 << 10
COMPACT_SECONDS = 20.0


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do. `earlier` are the histories of the same client's killed predecessors."""

    role: str
    name: str
    seed: int
    settings: EtcdSettings
    partitions: int
    quota_bytes: int
    archive: str
    history: str
    earlier: tuple[str, ...] = ()


class Client:
    """Shared by the roles: the log, the recorder, and the word that it is time to end."""

    def __init__(self, orders: Orders, recorder: Recorder) -> None:
        self.orders = orders
        self.recorder = recorder
        self.random = random.Random(orders.seed)
        self.blobs = DirectoryBlobs(Path(orders.archive))
        self.budget = Budget(quota_bytes=orders.quota_bytes)
        self.log = EtcdEventLog(
            orders.settings, partitions=orders.partitions, blobs=self.blobs, budget=self.budget, recheck_s=2.0
        )
        self.over = asyncio.Event()

    async def open(self) -> None:
        while True:
            try:
                return await self.log.open()
            except LogUnavailable:
                await asyncio.sleep(0.2)

    async def wait(self, seconds: float) -> None:
        """At most so long, or until it is time to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()


class Owner:
    """Claims partitions, appends under each claim for a while, gives it back or has it taken away."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sent = 0
        earlier = load(map(Path, client.orders.earlier))
        done = {append.command_id for append in earlier.appends if append.outcome is not Outcome.UNKNOWN}
        # What a killed predecessor never learned: the same ids again tell it.
        self._unknown: dict[int, dict[str, int]] = {n: {} for n in range(client.orders.partitions)}
        for append in earlier.appends:
            if append.command_id not in done:
                self._unknown[append.partition][append.command_id] = len(append.events)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for partition in range(self._client.orders.partitions):
                group.create_task(self._reign(partition))

    async def _reign(self, partition: int) -> None:
        client = self._client
        while not client.over.is_set():
            force = client.random.random() < FORCED_SHARE
            try:
                writer = await client.recorder.claim(client.orders.name, client.log, partition, force=force)
            except LogBroken:
                raise
            except LogError:  # owned by another, not answered, or its lease lapsed while this process was paused
                await client.wait(client.random.uniform(0.2, 1.5))
                continue
            async with asyncio.TaskGroup() as group:
                ends_at = asyncio.get_running_loop().time() + client.random.uniform(0.3, 1.0) * REIGN_SECONDS
                for _ in range(APPENDERS):
                    group.create_task(self._append_until(writer, ends_at))
            await writer.release()

    async def _append_until(self, writer: PartitionWriter, ends_at: float) -> None:
        client, loop = self._client, asyncio.get_running_loop()
        with contextlib.suppress(WriterClosed):
            while not client.over.is_set() and loop.time() < ends_at:
                unknown = self._unknown[writer.partition]
                if unknown:
                    command, count = unknown.popitem()
                else:
                    self._sent += 1
                    command, count = f"{Path(client.orders.history).stem}-{self._sent}", client.random.randint(1, 4)
                await self._send(writer, command, count)
                await client.wait(client.random.uniform(0, 2 * PAUSE_SECONDS))

    async def _send(self, writer: PartitionWriter, command: str, count: int) -> None:
        """Send until the outcome is known, and now and then once more; what stays unknown the next claim tells."""
        client = self._client
        sendings = 2 if client.random.random() < REPEATED_SHARE else 1
        for _ in range(SENDINGS_MAX):
            try:
                await client.recorder.append(client.orders.name, writer, command, self._events(command, count))
            except LogUnavailable:
                continue
            except (WriterClosed, LogBroken):
                self._unknown[writer.partition][command] = count
                raise
            except LogError:
                await client.wait(0.2)  # refused for now: full, or overloaded
                continue
            sendings -= 1
            if not sendings:
                return
        self._unknown[writer.partition][command] = count

    def _events(self, command: str, count: int) -> list[EventRecord]:
        """Ids of this sending's own, so that the log shows which one it holds."""
        sending = self._client.random.getrandbits(48)
        records = [event(f"nemesis/{command}", n, "x" * 64, command=command) for n in range(1, count + 1)]
        return [msgspec.structs.replace(r, event_id=f"{r.event_id}.{sending:x}") for r in records]


async def follow(client: Client) -> None:
    """Follow every partition from its start; at the end until its tail."""
    reached = dict.fromkeys(range(client.orders.partitions), 0)
    moved = asyncio.Event()

    def notice(events: list[StoredEvent]) -> None:
        reached[events[0].position.partition] = events[-1].position.offset + 1
        moved.set()

    following = asyncio.create_task(client.recorder.follow(client.orders.name, client.log, dict(reached), notice))
    ending = asyncio.create_task(client.over.wait())
    await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
    if not following.done():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                tails = {partition: await client.log.tail(partition) for partition in reached}
                while any(reached[partition] < tail for partition, tail in tails.items()) and not following.done():
                    moved.clear()
                    waiting = asyncio.create_task(moved.wait())
                    await asyncio.wait((waiting, following), return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
        # In time or not: the checker is to tell if it did not get there.
        client.recorder.caught_up(client.orders.name)
    ending.cancel()
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def read(client: Client) -> None:
    """Read to the tail from near it, again and again; at the end everything."""
    while not client.over.is_set():
        partition = client.random.randrange(client.orders.partitions)
        try:
            start = max(0, await client.log.tail(partition) - client.random.randint(0, READ_BACK))
            await client.recorder.read(client.orders.name, client.log, partition, start)
        except LogUnavailable:
            pass
        await client.wait(client.random.uniform(0.1, 0.6))
    for partition in range(client.orders.partitions):
        await client.recorder.read(client.orders.name, client.log, partition)


async def keep(client: Client) -> None:
    """Keep the log within the quota as the platform's archiver does: its rounds, and what is old enough archived."""
    orders = client.orders
    members = EtcdMembers(orders.settings)
    await members.open()
    keeper = LogKeeper(
        client=client.log.client,
        members=members,
        blobs=client.blobs,
        partitions=orders.partitions,
        budget=client.budget,
        policy=ArchivePolicy(retain_s=RETAIN_SECONDS, segment_bytes=SEGMENT_BYTES, least_bytes=1),
        compact_every_s=COMPACT_SECONDS,
        on_warning=lambda words: print(words, file=sys.stderr, flush=True),
    )
    rounds = 0
    while not client.over.is_set():
        rounds += 1
        try:
            await keeper.round()
            if rounds % ARCHIVE_EVERY_ROUNDS == 0:
                await keeper.archive(range(orders.partitions), everything=False)
        except LogBroken:
            raise
        except LogError as error:
            print(error, file=sys.stderr, flush=True)
        await client.wait(ROUND_S)
    await members.close()


ROLES = {"owner": lambda client: Owner(client).run(), "follower": follow, "reader": read, "archiver": keep}


async def main(orders: Orders) -> None:
    with Path(orders.history).open("a") as sink:
        recorder = Recorder(sink=sink)
        client = Client(orders, recorder)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.over.set)
        await client.open()
        Path(orders.history).with_suffix(UP).touch()
        await ROLES[orders.role](client)
        if orders.role == "follower":
            for entry in recorder.history().consumed:
                sink.write(msgspec.json.encode(entry).decode() + "\n")
        await client.log.close()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
