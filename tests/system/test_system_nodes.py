"""One platform on several machines, each a network namespace: they come, die, are cut off and return, under load.

Four clients send some forty commands a second in all, each under its id until it is answered: what was acknowledged is
in the log once, nothing twice. Two visitors ask the application through the gateway on the home machine. It has an
instance on each machine, so none of their requests may fail, whatever happens to the other machines. Those that the
gateway tries to send to a machine that is cut off may take the time of one attempt to connect; of those that were on
their way there, one for each visitor, every one must be answered by another machine when the gateway gives that one up.
"""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.system import spread
from tests.system.clients import Commanders, Visitors
from tests.system.machines import MARKS, Machines, Namespaces, house_in, status_of
from tests.system.platform import Platform, until
from tests.system.spread import MOVED_SECONDS

pytestmark = [*MARKS, pytest.mark.timeout(600)]

ENDED_SECONDS = 60.0
VISITORS = 2
CONNECTED_SECONDS = 5.0
"""How long a request may take: one attempt to connect, and then another machine answers."""
GIVEN_UP_SECONDS = 40.0
"""How long one may take that was on its way when its machine was cut off."""
HELD_UP_SECONDS = 60.0
"""How long a command may take: a supervisor that was on a machine that is gone has to be given up by Ray, started
elsewhere, and given its partitions."""
SCALED = ("supervisor", "projector", "api", "builder", "eventlog")
"""Every pool whose size is free; `gateway` goes by machines: test_system_gateways.py."""
PER_MACHINE = {"node", "archiver", "gateway"}


@pytest.fixture
def house() -> Iterator[tuple[Platform, Machines]]:
    with house_in(Namespaces) as house:
        yield house


def test_machines_come_die_are_cut_off_and_return(house: tuple[Platform, Machines], told: list[str]) -> None:
    platform, machines = house
    for number in range(2):
        machines.join(number)
    until("every machine to be ready", lambda: list(status_of(platform).values()) == ["ready"] * 3, MOVED_SECONDS)
    home = next(name for name in status_of(platform) if not name.startswith("m"))
    everywhere = {home, "m0", "m1"}

    spread.deploy(platform, "one")
    platform.cli("ps", "scale", "web=3", "--app", "spread")
    assert spread.ready_on_all(platform, *everywhere), "one instance on each machine"
    commanders = Commanders(platform, "changed")
    commanders.prepare()

    with Visitors(platform, "spread", [platform.host] * VISITORS, pause_seconds=0.1) as visitors, commanders:
        assert {pool["name"] for pool in platform.get("/v1/pools")["items"]} == {*SCALED, *PER_MACHINE}
        spread.scale(platform, 3, *SCALED)
        commanders.grows()
        spread.scale(platform, 1, *SCALED)
        commanders.grows()
        spread.scale(platform, 3, "supervisor")
        assert supervisors_on(machines) == ["m0", "m1"], "the machines that are troubled now own partitions"

        machines.crash(0)
        until("what ran there to run elsewhere", lambda: spread.ready_on_all(platform, home, "m1"), MOVED_SECONDS)
        until("it to be known as lost", lambda: status_of(platform)["m0"] == "lost", MOVED_SECONDS)
        commanders.grows()
        machines.join(0)
        until("the machine to be back", lambda: status_of(platform)["m0"] == "ready", MOVED_SECONDS)
        assert max(visitors.slow, default=0.0) < CONNECTED_SECONDS, "who is refused is sent on at once"

        machines.cut(1)
        until("what ran there to run elsewhere", lambda: spread.ready_on_all(platform, home, "m0"), MOVED_SECONDS)
        commanders.grows()
        until("whoever asked it to have been answered by another", lambda: visitors.waiting < 1.0, MOVED_SECONDS)
        machines.heal(1)
        machines.join(1)
        until("what it still ran to be stopped", lambda: len(spread.running(platform)) == 3, MOVED_SECONDS)
        until("the machine to be back", lambda: status_of(platform)["m1"] == "ready", MOVED_SECONDS)

        for drained in (next(m for m in spread.ready_on(platform) if m != home), home):
            platform.cli("nodes", "drain", drained, "-m", "a new disk")
            until(
                "what ran there to run elsewhere",
                partial(spread.ready_on_all, platform, *everywhere - {drained}),
                MOVED_SECONDS,
            )
            until("nothing to run there", lambda: len(spread.running(platform)) == 3, MOVED_SECONDS)
            assert spread.ready_beside_the_last_stopped(platform) == 3, "another starts first"
            platform.cli("nodes", "undrain", drained)
        spread.scale(platform, 1, "supervisor")

    told.append(f"three machines: {commanders.told()}; {visitors.told()}")
    assert visitors.failed == []
    on_their_way = [seconds for seconds in visitors.slow if seconds > CONNECTED_SECONDS]
    assert len(on_their_way) <= VISITORS and max(on_their_way, default=0.0) < GIVEN_UP_SECONDS, on_their_way
    assert commanders.slowest < HELD_UP_SECONDS
    commanders.each_is_there_once()
    until("every operation to end", lambda: spread.no_operation_runs(platform), ENDED_SECONDS)
    assert platform.visit("spread").status == 200
    assert platform.cli("status").json["ready"]


def supervisors_on(machines: Machines) -> list[str]:
    """Those of the machines that joined on which there is one."""
    lines = {machines.name(n): [" ".join(p.cmdline()) for p in machines.processes(n)] for n in range(2)}
    return [name for name, found in lines.items() if any("ray::LifecycleSupervisor" in line for line in found)]
