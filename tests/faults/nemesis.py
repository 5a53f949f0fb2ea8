"""The nemesis run: owners, consumers and an archiver over three real etcds, while everything happens to them at random.

`python -m tests.faults.nemesis --seconds 600 --seed 7`. What every client saw goes through the history checker; the
seed decides which fault comes when, not how the machine's processes interleave.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from events.log.backup.source import EtcdLogSource
from events.log.blobs import DirectoryBlobs
from events.log.chain import ChainBroken
from events.log.etcd_client import EtcdClient
from events.log.keys import Keys
from tests.checker.history import Append, History, Outcome, load
from tests.checker.rules import check
from tests.checker.stored import Batch, all_batches
from tests.etcd_cluster import EtcdCluster
from tests.faults.nemesis_client import UP, Orders
from tests.faults.nemesis_faults import CLIENT_FAULTS, MEMBER_FAULTS, Fault, await_room

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "nemesis"
PARTITIONS = 4
OWNERS = 3
FOLLOWERS = 2
READERS = 1
ARCHIVERS = 1
QUOTA_BYTES = 128 << 20
SNAPSHOT_COUNT = 500  # so few entries kept that a member that was away needs a snapshot
END_SECONDS = 120.0


class Process:
    """One client: its present process, and the histories of all it had."""

    def __init__(self, run: "Nemesis", role: str, number: int) -> None:
        self.role = role
        self.name = f"{role}-{number}"
        self.histories: list[Path] = []
        self.paused = False
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        run = self._run
        earlier = tuple(map(str, self.histories))
        history = run.directory / f"{self.name}.{len(self.histories)}.jsonl"
        history.touch()
        self.histories.append(history)
        endpoints = list(run.cluster.settings().endpoints)
        run.random.shuffle(endpoints)  # each begins with another member
        settings = msgspec.structs.replace(run.cluster.settings(NAMESPACE), endpoints=tuple(endpoints))
        orders = Orders(
            role=self.role, name=self.name, seed=run.random.getrandbits(32), settings=settings, partitions=PARTITIONS,
            quota_bytes=QUOTA_BYTES, archive=str(run.archive), history=str(history),
            earlier=earlier if self.role == "owner" else (),
        )  # fmt: skip
        command = [sys.executable, "-m", "tests.faults.nemesis_client", msgspec.json.encode(orders).decode()]
        with history.with_suffix(".err").open("wb") as err:
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=err, stderr=err)

    async def is_up(self) -> None:
        """Wait until the present process has opened the log; one that ended by itself is not waited for."""
        async with asyncio.timeout(END_SECONDS):
            while not self.histories[-1].with_suffix(UP).exists() and self.trouble() is None:
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """kill -9; it is gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    async def end(self) -> None:
        """Ask it to come to its end, and wait for that."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, END_SECONDS)

    def trouble(self) -> str | None:
        """Why it ended by itself, if it did."""
        code = None if self._process is None else self._process.poll()
        # SIGTERM: it was asked to end before it was up.
        if code is None or code in (0, -signal.SIGKILL, -signal.SIGTERM):
            return None
        said = self.histories[-1].with_suffix(".err").read_text(errors="replace")
        return f"{self.name} ended with {code}: {said[-3000:]}"

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class Nemesis:
    """One run. What the faults need of it is public."""

    def __init__(
        self,
        *,
        directory: Path,
        cluster: EtcdCluster,
        seed: int,
        seconds: float,
        member_faults: Mapping[str, tuple[Fault, int]],
        longest: float,
    ) -> None:
        self.directory = directory
        self.cluster = cluster
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.owners = [Process(self, "owner", n) for n in range(OWNERS)]
        self.others = [Process(self, "follower", n) for n in range(FOLLOWERS)]
        self.others += [Process(self, "reader", n) for n in range(READERS)]
        self.archivers = [Process(self, "archiver", n) for n in range(ARCHIVERS)]
        self.archive = directory / "archive"
        self.wrong: list[str] = []
        """What a fault itself found wrong."""
        self._stored: dict[str, int] = {}
        self.longest = longest
        """Seconds that a fault lasts at most."""
        self._seconds = seconds
        self._member_faults = member_faults
        self.troubling_clients = asyncio.Lock()
        """Held by a fault that starts or ends clients."""

    @property
    def _processes(self) -> list[Process]:
        return [*self.owners, *self.others, *self.archivers]

    async def run(self) -> list[str]:
        """What went wrong; nothing if all held."""
        for process in self._processes:
            process.start()
        try:
            # A busy machine takes its time to start them, which is not the run's.
            await asyncio.gather(*(process.is_up() for process in self._processes))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as group:
                    group.create_task(self._trouble_members())
                    group.create_task(self._trouble_clients())
            await self.cluster.everything_well()
            for process in self._processes:
                process.cont()
            await await_room(self)
            return await self._end()
        finally:
            for process in self._processes:
                process.kill()

    def lasting(self) -> float:
        """For how many seconds this fault lasts."""
        return self.random.uniform(0.1, 1.0) * self.longest

    def history(self) -> History:
        return load(path for process in self._processes for path in process.histories)

    def _note(self, name: str) -> None:
        """Count a fault, and write down when it began: by the clock of the histories."""
        self.done[name] += 1
        with (self.directory / "faults.txt").open("a") as file:
            file.write(f"{time.monotonic_ns()} {name}\n")

    async def _trouble_members(self) -> None:
        names = list(self._member_faults)
        weights = [weight for _, weight in self._member_faults.values()]
        # Each kind once, in random order, before chance alone decides.
        first = self.random.sample(names, len(names))
        while True:
            name = first.pop() if first else self.random.choices(names, weights)[0]
            self._note(name)
            await self._member_faults[name][0](self)
            await self.cluster.answers()
            await asyncio.sleep(self.random.uniform(0.1, 0.5) * self.longest)

    async def _trouble_clients(self) -> None:
        names = list(CLIENT_FAULTS)
        while True:
            await asyncio.sleep(self.random.uniform(0.1, 0.8) * self.longest)
            async with self.troubling_clients:
                name = self.random.choice(names)
                self._note(name)
                await CLIENT_FAULTS[name](self)

    async def _end(self) -> list[str]:
        """Let all come to rest, owners first: then the log has its end and followers can be asked to reach it."""
        wrong = [*self.wrong, *(text for process in self._processes if (text := process.trouble()))]
        await asyncio.gather(*(process.end() for process in (*self.owners, *self.archivers)))
        await asyncio.gather(*(process.end() for process in self.others))
        wrong += [text for process in self._processes if (text := process.trouble()) and text not in wrong]
        hashes = await self.cluster.hashes()
        if len(set(hashes.values())) != 1:
            wrong.append(f"etcd's members hold different data: hashes {hashes}")
        try:
            batches = await self._batches()
        except ChainBroken as error:
            return [*wrong, f"the log is broken: {error}"]
        history = await asyncio.to_thread(self.history)
        print(self._figures(history), flush=True)
        if not sum(map(_size, history.appends)):
            wrong.append("expected events to be acknowledged, found none: the run shows nothing")
        return wrong + [str(violation) for violation in await asyncio.to_thread(check, history, batches)]

    async def _batches(self) -> list[Batch]:
        settings = self.cluster.settings(NAMESPACE, only=await self.cluster.leader())
        async with EtcdClient(settings) as client:
            batches = await all_batches(await EtcdLogSource.open(client, DirectoryBlobs(self.archive)))
            keys = Keys(NAMESPACE)
            hot = [item for item in await client.get_prefix(keys.partitions) if keys.parse_batch(item.key)]
            self._stored = {"batches": len(batches), "of them still in etcd": len(hot)}
            return batches

    def _figures(self, history: History) -> str:
        outcomes = Counter(append.outcome for append in history.appends)
        won = sum(claim.epoch is not None for claim in history.claims)
        figures = {
            "sendings": len(history.appends),
            "acknowledged": outcomes[Outcome.OK],
            "of them repeated": sum(append.duplicate for append in history.appends),
            "unknown": outcomes[Outcome.UNKNOWN],
            "refused": outcomes[Outcome.REFUSED],
            "claims won": won,
            "reads and followers": len(history.consumed),
            "events read": sum(len(entry.events) for entry in history.consumed),
            "events acknowledged": sum(map(_size, history.appends)),
            **self._stored,
            "faults": dict(sorted(self.done.items())),
        }
        return "\n".join(f"  {name}: {value}" for name, value in figures.items())


def _size(append: Append) -> int:
    return len(append.events) if append.outcome is Outcome.OK and not append.duplicate else 0


async def run(
    directory: Path,
    *,
    seed: int,
    seconds: float,
    member_faults: Mapping[str, tuple[Fault, int]] = MEMBER_FAULTS,
    longest: float = 6.0,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """What went wrong in a run of so many seconds, the end not counted; no fault lasts for more than `longest`."""
    cluster = EtcdCluster(directory / "etcd", quota_bytes=QUOTA_BYTES, snapshot_count=SNAPSHOT_COUNT, flags=flags)
    async with cluster:
        nemesis = Nemesis(
            directory=directory, cluster=cluster, seed=seed, seconds=seconds, member_faults=member_faults,
            longest=longest,
        )  # fmt: skip
        return await nemesis.run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", action="append", choices=sorted(MEMBER_FAULTS), help="this fault of members alone")
    parser.add_argument("--etcd-flag", action="append", default=[], metavar="NAME=VALUE", help="for every etcd")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    again = [
        f"--seconds {given.seconds:g} --seed {seed}",
        *(f"--only {shlex.quote(name)}" for name in given.only or ()),
    ]
    again += [f"--etcd-flag {shlex.quote(flag)}" for flag in given.etcd_flag]
    directory = Path(tempfile.mkdtemp(prefix="rf-nemesis-"))
    print(f"nemesis: seed {seed}, {given.seconds:g} s, histories in {directory}", flush=True)
    wrong = asyncio.run(
        run(
            directory,
            seed=seed,
            seconds=given.seconds,
            member_faults={name: MEMBER_FAULTS[name] for name in given.only or MEMBER_FAULTS},
            flags=dict(flag.split("=", 1) for flag in given.etcd_flag),
        )
    )
    for text in wrong[:20]:
        print(f"VIOLATION {text}")
    print(f"nemesis: {len(wrong)} violations; again: python -m tests.faults.nemesis {' '.join(again)}")
    if not wrong and not os.environ.get("RAYFOLD_KEEP_HISTORIES"):
        shutil.rmtree(directory)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
