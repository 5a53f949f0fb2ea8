"""Steady appends of many times etcd's quota: never full while the archive works, refused while not, then on again.

The long one is ten minutes on 64 MiB; the short one is the same within seconds on 16 MiB. Both print what they saw.
"""

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.log.archive.space import Space
from events.log.blobs import DirectoryBlobs
from events.log.embedded import EmbeddedEtcd
from events.log.errors import LogFull, LogUnavailable
from tests.events.log.contract import offsets, read_all
from tests.events.log.quota_household import MIB, Household

pytestmark = pytest.mark.servers

EVENT_BYTES = 20_000
ROUND_S = 0.2
AHEAD_EVENTS = 50  # appended since the keeper's last round: 1 MB, what comes in two rounds at the rates used here


class Soak:
    """Appends at a rate with a keeper beside it, and remembers the worst."""

    def __init__(self, house: Household, bytes_a_second: int) -> None:
        self.house = house
        self._pause = EVENT_BYTES / bytes_a_second
        self.refused = 0
        self.rounds_unanswered = 0
        self._round = asyncio.Condition()
        self._ahead = 0
        self.most = Space(quota_bytes=1, in_use=0, file=0, no_space=False)

    @contextlib.asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """The keeper's rounds beside what is done within. What ends them by itself is raised."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    async def _keep(self) -> None:
        """As the platform's archiver: where etcd does not answer in time, the next round tries again."""
        while True:
            try:
                self._see(await self.house.keeper.round())
            except LogUnavailable:
                self.rounds_unanswered += 1
            async with self._round:
                self._ahead = 0
                self._round.notify_all()
            await asyncio.sleep(ROUND_S)

    async def append(self, seconds: float, least: int = 0) -> None:
        """At the rate, for so long and at least so many events; a refusal is counted and the next one tried in time.

        Where the machine is too busy for the keeper's rounds it is no faster than they are: that the archive keeps up
        with a rate is for a benchmark to show.
        """
        loop = asyncio.get_running_loop()
        began = due = loop.time()
        while loop.time() - began < seconds or len(self.house.acked) < least:
            try:
                await self.house.append(EVENT_BYTES)
            except LogFull:
                self.refused += 1
            async with self._round:
                self._ahead += 1
                await self._round.wait_for(lambda: self._ahead < AHEAD_EVENTS)
            due += self._pause
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def append_until_refused(self) -> LogFull:
        while True:
            try:
                await self.house.append(EVENT_BYTES)
            except LogFull as refusal:
                return refusal
            await asyncio.sleep(self._pause / 4)

    async def append_until_taken(self) -> float:
        """Seconds until an append is taken again."""
        loop = asyncio.get_running_loop()
        began, done = loop.time(), len(self.house.acked)
        async with asyncio.timeout(120):
            while len(self.house.acked) == done:
                try:
                    await self.house.append(EVENT_BYTES)
                except LogFull:
                    await asyncio.sleep(0.05)
        return loop.time() - began

    def _see(self, space: Space) -> None:
        self.most = Space(
            quota_bytes=space.quota_bytes,
            in_use=max(space.in_use, self.most.in_use),
            file=max(space.file, self.most.file),
            no_space=space.no_space or self.most.no_space,
        )


async def soak(tmp_path: Path, *, quota: int, bytes_a_second: int, seconds: float) -> None:
    etcd = EmbeddedEtcd(tmp_path, quota_bytes=quota)
    try:
        settings = await etcd.ensure()
        async with Household(settings, DirectoryBlobs(tmp_path / "archive"), quota=quota) as house:
            run = Soak(house, bytes_a_second)
            cpu = _cpu_seconds()
            async with run.keeping():
                # A busy machine may not keep the rate; the quota is to be passed through more than once all the same.
                await run.append(seconds, least=int(1.25 * quota / EVENT_BYTES))
            cpu = _cpu_seconds() - cpu
            working, refused_working = run.most, run.refused
            written = len(house.acked)
            refusal = await run.append_until_refused()
            stopped = max(status.db_in_use for status in await house.members.statuses())
            async with run.keeping():
                recovered_s = await run.append_until_taken()
                await run.append(min(5.0, seconds / 4))
            uses = await house.keeper.uses()
            figures = {
                "quota_mib": quota // MIB,
                "seconds": seconds,
                "events": len(house.acked),
                "mib_appended": round(len(house.acked) * EVENT_BYTES / MIB, 1),
                "times_the_quota": round(len(house.acked) * EVENT_BYTES / quota, 1),
                "most_in_use_share": round(working.share, 3),
                "most_file_share": round(working.file_share, 3),
                "refused_while_archiving": refused_working,
                "rounds_unanswered": run.rounds_unanswered,
                "share_when_refused": round(stopped / quota, 3),
                "seconds_until_taken_again": round(recovered_s, 2),
                "segments": uses[0].segments,
                "cpu_microseconds_per_event": round(1e6 * cpu / written, 1),
            }
            print(json.dumps({"soak": figures}))
            assert refused_working == 0 and not run.most.no_space
            assert working.share < house.budget.refuse
            assert "archive" in str(refusal) and stopped < 0.95 * quota
            assert offsets(await read_all(house.log, 0)) == house.acked == list(range(len(house.acked)))
    finally:
        await etcd.stop()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def test_steady_appends_on_a_small_quota(tmp_path: Path) -> None:
    await soak(tmp_path, quota=16 * MIB, bytes_a_second=5 * MIB // 2, seconds=9.0)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_ten_minutes_of_steady_appends_on_64_mib(tmp_path: Path) -> None:
    await soak(tmp_path, quota=64 * MIB, bytes_a_second=2 * MIB, seconds=600.0)
