"""Gateways on several machines, each a network namespace: scaled up and down, lost and replaced, under requests."""

from collections.abc import Iterator

import psutil
import pytest

from tests.system.clients import Visitors
from tests.system.machines import MARKS, Machines, Namespaces, house_in, status_of
from tests.system.platform import Answer, Json, Platform, ask, until
from tests.system.spread import deploy

pytestmark = [*MARKS, pytest.mark.timeout(600)]

SETTLED_SECONDS = 120.0
ENDED_SECONDS = 240.0
HOME, M0, M1 = "gateway-0", "gateway-at-m0", "gateway-at-m1"


@pytest.fixture
def house() -> Iterator[tuple[Platform, Machines]]:
    with house_in(Namespaces) as house:
        yield house


def through(platform: Platform, host: str, path: str = "/") -> Answer:
    """A request through the gateway at `host`."""
    return ask(platform.gateway_port, "GET", path, headers={"Host": "spread.localhost"}, host=host, seconds=10)


def pool(platform: Platform) -> Json:
    return platform.get("/v1/pools/gateway")


def gateways(platform: Platform) -> list[str]:
    """Those that run and are to stay."""
    return sorted(a["name"] for a in pool(platform)["actors"] if a["ready"] and not a["draining"])


def settled(platform: Platform, *names: str) -> bool:
    return gateways(platform) == sorted(names) and pool(platform)["draining"] == 0


def waited_for(platform: Platform) -> list[str]:
    """The gateways that had applied the newest change of routing."""
    found: list[str] = platform.events(type="RoutingApplied")[-1]["body"]["gateways"]
    return sorted(found)


def proxies(platform: Platform, machine: str) -> list[int]:
    """The Envoys of a machine's gateway."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "--disable-hot-restart" in line and f"{platform.data}/nodes/{machine}/" in line:
            found.append(process.pid)
    return found


def test_gateways_follow_their_size_and_machines_and_lose_no_request(
    house: tuple[Platform, Machines], told: list[str]
) -> None:
    platform, machines = house
    for number in range(2):
        machines.join(number)
    until("every machine to be ready", lambda: list(status_of(platform).values()) == ["ready"] * 3, SETTLED_SECONDS)
    home, m0, m1 = platform.host, machines.host(0), machines.host(1)
    deploy(platform, "one")
    platform.cli("ps", "scale", "web=3", "--app", "spread")
    assert settled(platform, HOME)

    refused = platform.cli("pool", "scale", "gateway=4", expect=None)
    assert refused.code != 0 and "there are 3 machines" in refused.out + refused.err, refused
    refused = platform.cli("pool", "auto", "gateway", "1..9", expect=None)
    assert refused.code != 0 and "no measure" in refused.out + refused.err, refused

    platform.cli("pool", "scale", "gateway=2", "--wait", timeout=SETTLED_SECONDS)
    assert settled(platform, HOME, M0)
    until("the second gateway to answer", lambda: through(platform, m0, "/by-m0").status == 200, SETTLED_SECONDS)
    with Visitors(platform, "spread", [home, m0]) as visitors:
        deploy(platform, "two")
        deploy(platform, "three")
    assert visitors.failed == []
    assert waited_for(platform) == [HOME, M0]
    told.append(f"two gateways, two deploys: {visitors.requests} requests, {len(visitors.failed)} failed")
    lines = ("logs", "--app", "spread", "--source", "router", "-n", "10000")
    until("its lines", lambda: any("/by-m0" in line["text"] for line in platform.cli(*lines).lines))

    with Visitors(platform, "spread", [home]) as visitors:
        platform.cli("pool", "scale", "gateway=1", "--wait", timeout=SETTLED_SECONDS)
        assert through(platform, m0).status == 0
        assert proxies(platform, "m0") == []
        deploy(platform, "four")
    assert visitors.failed == []
    assert waited_for(platform) == [HOME]

    platform.cli("pool", "scale", "gateway=2", "--wait", timeout=SETTLED_SECONDS)
    for size in (1, 2):  # wanted again while it goes, or as it has gone
        platform.cli("pool", "scale", f"gateway={size}")
    until("it to be back", lambda: settled(platform, HOME, M0), SETTLED_SECONDS)
    until("it to answer", lambda: through(platform, m0).status == 200, SETTLED_SECONDS)
    machines.crash(0)
    # It needs the gateways alone, and one of them will never answer.
    platform.cli("domains", "add", "other.spread.localhost", "--app", "spread", timeout=ENDED_SECONDS)
    assert M0 not in waited_for(platform)
    deploy(platform, "five", expect=None)  # it ends; not well, where an instance was to start on the lost machine
    until("another machine to have it", lambda: settled(platform, HOME, M1), SETTLED_SECONDS)
    until("it to answer", lambda: through(platform, m1).status == 200, SETTLED_SECONDS)
    deploy(platform, "five-again")
    assert waited_for(platform) == [HOME, M1]

    machines.join(0)
    until("the machine to be back", lambda: status_of(platform)["m0"] == "ready", SETTLED_SECONDS)
    assert settled(platform, HOME, M1), "a machine that joins moves no gateway"
    deploy(platform, "six")
    assert waited_for(platform) == [HOME, M1]

    machines.cut(1)
    deploy(platform, "seven", expect=None)
    until("another machine to have it", lambda: settled(platform, HOME, M0), SETTLED_SECONDS)
    deploy(platform, "seven-again")
    assert waited_for(platform) == [HOME, M0]
    assert proxies(platform, "m1") != []
    machines.heal(1)
    machines.join(1)
    until("what was left there to be ended", lambda: proxies(platform, "m1") == [], SETTLED_SECONDS)
    assert through(platform, m0).json["text"] == "seven-again"

    [proxy] = proxies(platform, "m0")
    platform.down("--keep-apps", environment=machines.cluster.environment)
    assert [through(platform, host).status for host in (home, m0)] == [200, 200]
    platform.up(environment=machines.cluster.environment)
    until("both to be back", lambda: settled(platform, HOME, M0), SETTLED_SECONDS)
    assert proxies(platform, "m0") == [proxy], "it was adopted"
