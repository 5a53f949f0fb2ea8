"""Machines join, die, are cut off and return, under load: in short, and where there are no namespaces as well.

What they go through here at once, and for longer, is test_system_nodes.py's, which takes minutes.
"""

from collections.abc import Iterator

import pytest

from tests.system import spread
from tests.system.clients import Commanders, Visitors
from tests.system.machines import Machines, best_places, house_in, status_of
from tests.system.platform import Platform, until
from tests.system.spread import MOVED_SECONDS

pytestmark = [pytest.mark.system, pytest.mark.servers]


@pytest.fixture
def house() -> Iterator[tuple[Platform, Machines]]:
    with house_in(best_places) as house:
        yield house


def test_machines_join_die_are_cut_off_and_return_under_load(house: tuple[Platform, Machines], told: list[str]) -> None:
    platform, machines = house
    for number in range(2):
        machines.join(number)
    until(
        "all to be ready", lambda: list(status_of(platform).values()) == ["ready"] * 3, 60, lambda: status_of(platform)
    )
    home = next(name for name in status_of(platform) if not name.startswith("m"))
    spread.deploy(platform, "one")
    platform.cli("ps", "scale", "web=3", "--app", "spread")
    assert spread.ready_on_all(platform, home, "m0", "m1"), "one instance on each machine"
    commanders = Commanders(platform, "changed")
    commanders.prepare()

    with Visitors(platform, "spread", [platform.host] * 2, pause_seconds=0.1) as visitors, commanders:
        for size in (3, 1):
            spread.scale(platform, size, "supervisor")
        machines.crash(0)
        machines.cut(1)
        machines.join(2)
        until("what ran there to run elsewhere", lambda: spread.ready_off(platform, "m0", "m1"), MOVED_SECONDS)
        until("the new one to be ready", lambda: status_of(platform).get("m2") == "ready", MOVED_SECONDS)
        commanders.grows()
        assert platform.visit("spread").status == 200
        machines.heal(1)
        machines.join(1)
        until("what it still ran to be stopped", lambda: len(spread.running(platform)) == 3, MOVED_SECONDS)
        until("it to be back", lambda: status_of(platform)["m1"] == "ready", MOVED_SECONDS)

    told.append(f"three machines, in short: {commanders.told()}; {visitors.told()}")
    assert visitors.failed == []
    commanders.each_is_there_once()
    until("every operation to end", lambda: spread.no_operation_runs(platform), MOVED_SECONDS)
