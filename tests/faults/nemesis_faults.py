"""What may happen in a nemesis run, each fault from its beginning to its end.

Knows the cluster and the client processes; what must hold meanwhile is the checker's affair.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import grpc.aio

from events.log.errors import EtcdRefused, LogUnavailable

if TYPE_CHECKING:
    from tests.faults.nemesis import Nemesis, Process

Fault = Callable[["Nemesis"], Awaitable[None]]
JUNK_BYTES = 1 << 20
RELIEF_SECONDS = 120.0  # rounds that find members away are repeated after ten seconds, and the archiver may be paused
LEASE_SECONDS = 10.0  # of an owner's record: whoever is paused for longer has lost it


async def _leader_or_any(run: "Nemesis") -> int:
    """Half of the time the leader, which hurts more."""
    chosen = run.random.choice(run.cluster.members)
    return await run.cluster.leader() if run.random.random() < 0.5 else chosen


async def kill_member(run: "Nemesis") -> None:
    member = await _leader_or_any(run)
    run.cluster.kill(member)
    await asyncio.sleep(run.lasting())
    run.cluster.start(member)


async def kill_majority(run: "Nemesis") -> None:
    members = run.random.sample(run.cluster.members, 2)
    for member in members:
        run.cluster.kill(member)
    await asyncio.sleep(run.lasting())
    for member in members:
        run.cluster.start(member)


async def pause_member(run: "Nemesis") -> None:
    member = await _leader_or_any(run)
    run.cluster.stop(member)
    await asyncio.sleep(run.lasting())
    run.cluster.cont(member)


async def cut_member(run: "Nemesis") -> None:
    member = run.random.choice(run.cluster.members)
    await run.cluster.cut(member)
    await asyncio.sleep(run.lasting())
    await run.cluster.heal(member)


async def cut_leader(run: "Nemesis") -> None:
    """Long enough that the others elect one of their own."""
    leader = await run.cluster.leader()
    await run.cluster.cut(leader)
    with contextlib.suppress(TimeoutError):
        await run.cluster.leader(apart_from=leader, seconds=10.0)
    await asyncio.sleep(run.lasting())
    await run.cluster.heal(leader)


async def cut_clients(run: "Nemesis") -> None:
    await run.cluster.network.cut_clients()
    await asyncio.sleep(run.lasting())
    await run.cluster.network.heal_clients()


async def move_leader(run: "Nemesis") -> None:
    await run.cluster.all_agree()
    leader = await run.cluster.leader()
    with contextlib.suppress(grpc.aio.AioRpcError):  # it lost the lead by itself, or the other one was not ready
        await run.cluster.move_leader(run.random.choice([m for m in run.cluster.members if m != leader]))


async def compact(run: "Nemesis") -> None:
    """Away goes all that a watch could resume from, under the readers' hands."""
    async with run.cluster.client(await run.cluster.leader()) as client:
        with contextlib.suppress(LogUnavailable, EtcdRefused):  # the leader left, or nothing was written since the last
            await client.compact(await client.revision())


async def full_quota(run: "Nemesis") -> None:
    """Somebody else's keys fill etcd until it raises its alarm. They are deleted; the rest is the archiver's work."""
    await run.cluster.all_agree()
    async with run.cluster.client(await run.cluster.leader()) as client:
        number = 0
        try:
            with contextlib.suppress(LogUnavailable, EtcdRefused):
                while True:
                    await client.put(f"/junk/{number:04d}", run.random.randbytes(JUNK_BYTES))
                    number += 1
            assert await run.cluster.alarms(), "expected etcd to be full"
            await asyncio.sleep(run.lasting())
        finally:
            for each in range(number + 1):
                await client.delete(f"/junk/{each:04d}")
    await await_room(run)


async def await_room(run: "Nemesis") -> None:
    """No alarm of no space is up any more, by the archiver's doing."""
    try:
        async with asyncio.timeout(RELIEF_SECONDS):
            while await run.cluster.alarms():
                await asyncio.sleep(0.2)
    except TimeoutError:
        run.wrong.append(f"etcd was full and nobody made room within {RELIEF_SECONDS:g} s")
        await run.cluster.make_room()


async def wipe_member(run: "Nemesis") -> None:
    await run.cluster.all_agree()
    await run.cluster.wipe(await _leader_or_any(run))
    await run.cluster.all_agree()


async def restore_all(run: "Nemesis") -> None:
    """Every member begins anew from a backup. Who writes rests meanwhile: what comes after a backup is lost with it."""
    await run.cluster.all_agree()
    async with run.troubling_clients:
        writers = [*run.owners, *run.archivers]
        for writer in writers:
            writer.cont()
        await asyncio.gather(*(writer.end() for writer in writers))
        await run.cluster.restore_from_snapshot()
        await run.cluster.all_agree()
        for writer in writers:
            writer.start()


async def kill_owner(run: "Nemesis") -> None:
    owner = run.random.choice(run.owners)
    owner.kill()
    await asyncio.sleep(run.random.uniform(0, 0.3) * run.longest)
    owner.start()


async def pause_owner(run: "Nemesis") -> None:
    """For longer than its lease, every third time: then it wakes as a stale one."""
    await _paused(run.random.choice(run.owners), run.random.choice((run.lasting(), run.lasting(), _beyond_lease(run))))


async def kill_archiver(run: "Nemesis") -> None:
    """Between any two steps of a segment, of a compaction, of making room."""
    archiver = run.random.choice(run.archivers)
    archiver.kill()
    await asyncio.sleep(run.random.uniform(0, 0.3) * run.longest)
    archiver.start()


async def pause_archiver(run: "Nemesis") -> None:
    await _paused(run.random.choice(run.archivers), run.lasting())


async def pause_consumer(run: "Nemesis") -> None:
    await _paused(run.random.choice(run.others), run.lasting())


def _beyond_lease(run: "Nemesis") -> float:
    return run.longest if run.longest < LEASE_SECONDS / 2 else LEASE_SECONDS + run.lasting()


async def _paused(process: "Process", seconds: float) -> None:
    process.pause()
    await asyncio.sleep(seconds)
    process.cont()


MEMBER_FAULTS: Mapping[str, tuple[Fault, int]] = {
    "kill member": (kill_member, 6),
    "kill majority": (kill_majority, 2),
    "pause member": (pause_member, 5),
    "cut member": (cut_member, 4),
    "cut leader": (cut_leader, 4),
    "cut clients": (cut_clients, 3),
    "move leader": (move_leader, 4),
    "compact": (compact, 5),
    "full quota": (full_quota, 1),
    "wipe member": (wipe_member, 1),
    "restore all": (restore_all, 1),
}
"""Each with how often it comes, as a share of the sum."""
CLIENT_FAULTS: Mapping[str, Fault] = {
    "kill owner": kill_owner,
    "pause owner": pause_owner,
    "kill archiver": kill_archiver,
    "pause archiver": pause_archiver,
    "pause consumer": pause_consumer,
}
