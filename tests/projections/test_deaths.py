"""A model that takes its process along: the event is tried three times, then its stream waits and the others go on.

Real processes, one after the other, on one database and one hand, as Ray starts an actor again; some are killed from
outside, which is no event's fault.
"""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from projections import progress
from projections.attempts import DIED
from projections.database import Database
from tests.projections.deadly import EVENTS, fold
from tests.projections.test_projector import Counting


class House:
    """A database and a hand, and the processes that use them one after the other."""

    def __init__(self, directory: Path, context: ForkServerContext) -> None:
        self._context = context
        self._here = context.Event()
        self.database = Database(f"sqlite:///{directory / 'models.db'}")
        self.database.migrate()
        self.hand = directory / "projector-1.hand"

    def _start(self, how: str, which: str, failpoint: str) -> BaseProcess:
        url = self.database.url.render_as_string()
        process = self._context.Process(target=fold, args=(url, self.hand, how, which, failpoint, self._here))
        process.start()
        return process

    def run(self, how: str = "", which: str = "", *, failpoint: str = "") -> int:
        """Fold to the tail, or die; how the process ended."""
        process = self._start(how, which, failpoint)
        process.join(60)
        assert process.exitcode is not None
        return process.exitcode

    def kill_at(self, which: str) -> None:
        """Kill a process from outside while it folds this event."""
        self._here.clear()
        process = self._start("wait", which, "")
        assert self._here.wait(60)
        process.kill()
        process.join(60)

    def deaths(self, how: str, which: str) -> int:
        """How many processes die before one folds to the tail."""
        for deaths in range(10):
            if self.run(how, which) == 0:
                return deaths
        raise AssertionError("it dies for ever")

    def folded(self) -> int:
        return Counting().tally(self.database)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """A new interpreter with everything imported, of which each process is a copy."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.projections.deadly"])
    return context


@pytest.fixture
def house(tmp_path: Path, context: ForkServerContext) -> House:
    return House(tmp_path, context)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_after_three_deaths_the_stream_is_parked_with_what_is_behind_and_the_others_are_folded_once(
    house: House, how: str
) -> None:
    assert house.deaths(how, "node/n2@3") == 3
    (parked,) = progress.parked(house.database)
    assert (parked.projection, parked.stream, parked.event_id) == ("counting", "node/n2", "node/n2@3")
    assert (parked.attempts, parked.behind, parked.error) == (3, 7, DIED)
    assert house.folded() == EVENTS - 8


def test_it_stays_parked_and_other_events_of_the_kind_are_counted_for_themselves(house: House) -> None:
    assert house.deaths("exit", "node/n2@3") == 3
    assert house.run("exit", "node/n2@3") == 0
    assert len(progress.parked(house.database)) == 1


def test_kills_from_outside_park_nothing(house: House) -> None:
    for which in ("node/n1@2", "node/n1@2", "node/n0@4", "node/n2@5", "node/n3@7", "node/n3@8", "node/n3@9"):
        house.kill_at(which)
    assert house.run() == 0
    assert progress.parked(house.database) == []
    assert house.folded() == EVENTS


def test_between_kills_from_outside_the_event_that_kills_is_still_found(house: House) -> None:
    house.kill_at("node/n2@1")
    assert house.run("exit", "node/n2@3") == 1
    house.kill_at("node/n2@3")
    assert house.deaths("exit", "node/n2@3") == 1
    assert [p.event_id for p in progress.parked(house.database)] == ["node/n2@3"]


def test_an_event_that_was_survived_is_not_held_to_its_past(house: House) -> None:
    house.kill_at("node/n2@3")
    house.kill_at("node/n2@3")
    assert house.run() == 0
    database = house.database
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE checkpoints SET next_offset = 0")
        connection.exec_driver_sql("DELETE FROM nodes")
    assert house.deaths("exit", "node/n2@3") == 3


@pytest.mark.parametrize("point", ["projections.folded", "projections.written", "projections.counted"])
def test_deaths_where_no_event_is_at_hand_are_no_tries(house: House, point: str) -> None:
    house.kill_at("node/n2@3")
    for _ in range(4):
        assert house.run(failpoint=point) == 137
    assert house.run() == 0
    assert progress.parked(house.database) == []
    assert house.folded() == EVENTS


@pytest.mark.parametrize("point", ["projections.written", "projections.committed"])
def test_killed_as_it_is_parked_it_is_parked_untried_with_what_it_had(house: House, point: str) -> None:
    for _ in range(3):
        assert house.run("exit", "node/n2@3") == 1
    for _ in range(2):
        assert house.run("exit", "node/n2@3", failpoint=point) == 137
    assert house.run("exit", "node/n2@3") == 0
    (parked,) = progress.parked(house.database)
    assert (parked.event_id, parked.attempts, parked.behind) == ("node/n2@3", 3, 7)
    assert house.folded() == EVENTS - 8


def test_rows_that_kill_as_they_are_written_are_found_one_by_one(house: House) -> None:
    """The first death is nobody's yet: a batch was written. From then on each event is written by itself."""
    assert house.deaths("write", "node/n2@3") == 4
    (parked,) = progress.parked(house.database)
    assert (parked.event_id, parked.attempts, parked.behind) == ("node/n2@3", 3, 7)
    assert house.folded() == EVENTS - 8


def test_failures_and_deaths_of_one_event_count_together(house: House) -> None:
    assert house.run("exit", "node/n2@3") == 1
    assert house.run("exit", "node/n2@3") == 1
    assert house.run("raise", "node/n2@3") == 0
    (parked,) = progress.parked(house.database)
    assert (parked.event_id, parked.attempts) == ("node/n2@3", 3)
    assert "cannot fold this" in parked.error


@pytest.mark.parametrize("damage", [b"", b"\xff" * 4096, os.urandom(4096)])
def test_with_damaged_files_it_counts_anew(house: House, damage: bytes) -> None:
    for _ in range(2):
        assert house.run("exit", "node/n2@3") == 1
    house.hand.write_bytes(damage)
    house.hand.with_suffix(".batch").write_bytes(damage)
    assert house.deaths("exit", "node/n2@3") == 3
    assert [p.event_id for p in progress.parked(house.database)] == ["node/n2@3"]
    assert house.folded() == EVENTS - 8
