"""One platform on several machines, each a network namespace: they come, die, are cut off and return, under load.

Nothing acknowledged is lost or done twice, every operation ends, and the application goes on serving.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from tests.system import apps
from tests.system.machines import MARKS, Machines, house_of_three, status_of
from tests.system.platform import Json, Platform, until

pytestmark = MARKS

MOVED_SECONDS = 120.0
PAUSE_SECONDS = 0.1  # between two commands of the load


@dataclass
class Load:
    """Commands at a steady pace, each sent with its key until it is answered, and requests to the application."""

    platform: Platform
    app: str
    acknowledged: list[str] = field(default_factory=list)
    requests: int = 0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._command, self._visit)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _command(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            name = f"app-{len(self.acknowledged)}"
            headers = {"Idempotency-Key": f"load-{name}"}
            while True:
                answer = self.platform.http("POST", "/v1/teams/default/apps", {"name": name}, headers=headers)
                if answer.status in (200, 201, 202):
                    self.acknowledged.append(name)
                    break
                assert answer.status in (0, 429, 503), answer
                if self._over.wait(PAUSE_SECONDS):
                    return

    def _visit(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            answer = self.platform.visit(self.app)
            self.requests += 1
            if answer.status != 200:
                self.failed.append(f"{answer.status} at {time.monotonic():.1f}: {answer.text[:80]}")


@pytest.fixture
def house() -> Iterator[tuple[Platform, Machines]]:
    with house_of_three() as house:
        yield house


def ready_on(platform: Platform, app: str) -> list[str]:
    """The nodes of the app's ready instances, one for each."""
    return sorted(i["node"] for i in platform.instances(app) if i["status"] == "ready")


def supervisors(platform: Platform) -> Json:
    [pool] = [pool for pool in platform.get("/v1/pools")["items"] if pool["name"] == "supervisor"]
    return pool


def scale_supervisors(platform: Platform, size: int) -> None:
    platform.cli("pool", "scale", f"supervisor={size}")
    until(f"{size} supervisors", lambda: supervisors(platform)["running"] == size, MOVED_SECONDS)


def test_machines_come_die_are_cut_off_and_return(house: tuple[Platform, Machines], told: list[str]) -> None:
    platform, machines = house
    for number in range(2):
        machines.join(number)
    until("every machine to be ready", lambda: list(status_of(platform).values()) == ["ready"] * 3, MOVED_SECONDS)
    home = next(name for name in status_of(platform) if not name.startswith("m"))
    everywhere = sorted([home, "m0", "m1"])

    files = apps.web("spread")
    files["app.py"] = files["app.py"].replace('"127.0.0.1"', '"0.0.0.0"')  # where the gateway reaches it
    source = apps.write(platform.data.parent / "source", files)
    platform.cli("deploy", str(source), "--app", "spread", timeout=240)
    platform.cli("ps", "scale", "web=3", "--app", "spread")
    assert ready_on(platform, "spread") == everywhere, "one instance on each machine"

    with Load(platform, "spread") as load:
        scale_supervisors(platform, 3)
        scale_supervisors(platform, 1)

        machines.crash(0)
        until("what ran there to run elsewhere", lambda: on_all_but(platform, everywhere, "m0"), MOVED_SECONDS)

        until("it to be known as lost", lambda: status_of(platform)["m0"] == "lost", MOVED_SECONDS)
        machines.join(0)
        until("the machine to be back", lambda: status_of(platform)["m0"] == "ready", MOVED_SECONDS)

        asyncio.run(machines.network.cut(1))
        until("what ran there to run elsewhere", lambda: on_all_but(platform, everywhere, "m1"), MOVED_SECONDS)
        asyncio.run(machines.network.heal(1))
        machines.join(1)
        until("what it still ran to be stopped", lambda: len(running(platform, "spread")) == 3, MOVED_SECONDS)
        until("the machine to be back", lambda: status_of(platform)["m1"] == "ready", MOVED_SECONDS)

        platform.cli("nodes", "drain", home, "-m", "a new disk")
        until("what ran there to run elsewhere", lambda: on_all_but(platform, everywhere, home), MOVED_SECONDS)
        until("nothing to run there", lambda: len(running(platform, "spread")) == 3, MOVED_SECONDS)

    told.append(
        f"three machines: {len(load.acknowledged)} commands, {load.requests} requests, {len(load.failed)} failed"
    )
    told += load.failed[:5]
    made = [event["stream"] for event in platform.events(type="AppCreated")]
    assert sorted(s for s in made if "app-" in s) == sorted(f"app/default.{name}" for name in load.acknowledged)
    operations = platform.get("/v1/operations?limit=200")["items"]
    assert [o for o in operations if o["status"] == "running"] == []
    assert platform.visit("spread").status == 200


def on_all_but(platform: Platform, machines: list[str], gone: str) -> bool:
    """Whether three instances are ready on the two machines that are left, and on both."""
    found = ready_on(platform, "spread")
    return len(found) == 3 and set(found) == set(machines) - {gone}


def running(platform: Platform, app: str) -> list[int]:
    """The app's processes on all machines, as this one sees them."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if environment.get("RAYFOLD_APP") == app and str(platform.data) in environment.get("HOME", ""):
            found.append(process.pid)
    return found
