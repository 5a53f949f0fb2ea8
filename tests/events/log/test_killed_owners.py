"""Owners in processes of their own, killed or paused in the middle of appending; the paused ones are woken afterwards.

Whatever they had in flight, the checker finds no loss, no duplicate, no gap and no stale write.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from tests.checker.history import Outcome, load
from tests.checker.rules import assert_holds
from tests.checker.stored import Batch, hot_batches
from tests.events.log.owner_process import FENCED, serve

pytestmark = pytest.mark.servers

WAIT_S = 60.0


class _Owners:
    """Owners of one partition, one after the other."""

    def __init__(self, settings: EtcdSettings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self._context = multiprocessing.get_context("forkserver")
        # Loaded once and forked, instead of a second of imports for each owner. None of it has threads or channels.
        self._context.set_forkserver_preload(["tests.events.log.owner_process"])
        self._started = 0
        self.processes: list[ForkServerProcess] = []

    def start(self, repeat: tuple[str, ...]) -> tuple[ForkServerProcess, Connection]:
        name = f"o{self._started}"
        self._started += 1
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=serve, args=(self._settings, name, self.path(name), repeat, writer))
        process.start()
        writer.close()
        self.processes.append(process)
        return process, reader

    def path(self, name: str) -> Path:
        return self._directory / name

    def unanswered(self, number: int) -> tuple[str, ...]:
        """What this owner sent and got no answer to: its clients will send it again."""
        history = load([self.path(f"o{number}")])
        return tuple(append.command_id for append in history.appends if append.outcome is Outcome.UNKNOWN)


@pytest.fixture
def owners(etcd_settings: EtcdSettings, tmp_path: Path) -> Iterator[_Owners]:
    owners = _Owners(etcd_settings, tmp_path)
    yield owners
    for process in owners.processes:
        if process.is_alive():
            process.kill()
        process.join(WAIT_S)


def _under_way(told: Connection) -> None:
    assert told.poll(WAIT_S), "expected appends to flow within a minute, found none"
    assert told.recv() == "under way"


@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_owners_are_killed_and_stale_ones_woken(owners: _Owners, etcd_settings: EtcdSettings, rounds: int) -> None:
    """Each round one owner is paused, its successor is killed, and the paused one woken beside the one after that."""
    process, told = owners.start(())
    _under_way(told)
    repeated = 0
    for number in range(rounds):
        repeat = _signalled(owners, process, 2 * number, signal.SIGSTOP)
        stale = process
        process, told = owners.start(repeat)
        _under_way(told)
        repeated += len(repeat)
        repeat = _signalled(owners, process, 2 * number + 1, signal.SIGKILL)
        process.join(WAIT_S)
        process, told = owners.start(repeat)
        _under_way(told)
        repeated += len(repeat)
        assert stale.pid is not None
        os.kill(stale.pid, signal.SIGCONT)
        stale.join(WAIT_S)
        assert stale.exitcode == FENCED, "the stale one finds out by itself, at its first append, and ends"
    process.kill()
    process.join(WAIT_S)
    history = load([owners.path(f"o{number}") for number in range(2 * rounds + 1)])
    batches = asyncio.run(_stored(etcd_settings))
    assert_holds(history, batches)
    assert repeated > 2 * rounds, "each owner was cut off with commands in flight"
    assert len({batch.epoch for batch in batches}) == 2 * rounds + 1
    events = sum(len(batch.events) for batch in batches)
    print(
        f"{rounds} owners killed, {rounds} others woken stale, {repeated} commands sent again, {events} events: sound"
    )


def _signalled(owners: _Owners, process: ForkServerProcess, number: int, what: signal.Signals) -> tuple[str, ...]:
    """What the `number`-th owner had in flight when it was cut off."""
    assert process.pid is not None
    os.kill(process.pid, what)
    return owners.unanswered(number)


async def _stored(settings: EtcdSettings) -> list[Batch]:
    async with EtcdClient(settings) as client:
        return await hot_batches(client, settings.namespace)
