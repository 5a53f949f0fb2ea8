"""Pools are scaled while commands arrive: up and down, drained, and what the log says of them outlives everything."""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import pytest

from benchmarks.http_load import load
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

SETTLED_SECONDS = 90.0


@dataclass
class Client:
    """Changes a component's configuration again and again, each change under an id of its own, until it is told to end;
    what fails is sent again under the same id, as the command line does."""

    platform: Platform
    app: str
    acknowledged: list[str] = field(default_factory=list)
    slowest: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self.over.wait(0.02):
            number += 1
            key = f"KEY_{number}"
            began = time.monotonic()
            until(f"{key} to be taken", lambda key=key: self._send(key), 60)  # type: ignore[misc]
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.acknowledged.append(key)

    def _send(self, key: str) -> bool:
        target = self.platform.component(self.app, "config")
        answer = self.platform.http("PATCH", target, {"set": {key: "x"}}, headers={"Idempotency-Key": key})
        assert answer.status in (0, 200, 202, 409, 429, 503), answer.text
        return answer.status in (200, 202)


def _pool(platform: Platform, name: str) -> dict[str, object]:
    found: dict[str, object] = platform.get(f"/v1/pools/{name}")
    return found


def _running(platform: Platform, title: str) -> int:
    """How many processes of the platform bear this title."""
    running = 0
    for process in platform.processes():
        with suppress(psutil.NoSuchProcess):  # one that has ended since it was listed
            running += title in " ".join(process.cmdline())
    return running


def _config(platform: Platform) -> dict[str, str]:
    found: dict[str, str] = platform.get(platform.component("steady", "config"))["config"]
    return found


def _settled(platform: Platform, name: str, size: int) -> bool:
    pool = _pool(platform, name)
    wanted = (pool["size"], pool["running"], pool["moving"], pool["draining"])
    return wanted == (size, size, 0, 0)


@pytest.mark.timeout(300)
def test_supervisors_scale_up_and_down_under_load_and_every_command_counts_once(
    platform: Platform, told: list[str]
) -> None:
    assert platform.http("POST", "/v1/teams/default/apps", {"name": "steady"}).status in (201, 409)
    made = platform.http("POST", "/v1/teams/default/apps/steady/components", {"name": "web"})
    assert made.status in (201, 409), made.text
    client = Client(platform, "steady")
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        for size in (3, 1):
            sizes = [f"{name}={size}" for name in ("supervisor", "projector", "api", "builder")]
            platform.cli("pool", "scale", *sizes, "-m", f"{size} for the test")
            for name in ("supervisor", "projector", "api", "builder"):
                until(f"{size} of {name}", lambda n=name, s=size: _settled(platform, n, s), SETTLED_SECONDS)  # type: ignore[misc]
            if size == 3:
                shares = [len(a["partitions"]) for a in _pool(platform, "supervisor")["actors"]]  # type: ignore[attr-defined]
                assert sum(shares) == 16 and min(shares) >= 4, shares
                assert _running(platform, "ray::LifecycleSupervisor") == 3
    finally:
        client.over.set()
        thread.join()
    told.append(f"pools 1 → 3 → 1: {len(client.acknowledged)} commands, the slowest took {client.slowest:.2f} s")

    assert client.acknowledged
    changed = [e["command_id"] for e in platform.events(type="SpecChanged")]
    assert len(changed) == len(set(changed)), "a command took effect twice"
    platform.cli("projections", "rebuild", "components")
    # A rebuilt model is where the others are, which may be a moment behind the last acknowledged command.
    until("the read models to be where the last command is", lambda: client.acknowledged[-1] in _config(platform))
    assert {key for key in _config(platform) if key.startswith("KEY_")} == set(client.acknowledged)
    scaled = [e for e in platform.events(stream="pool/supervisor") if e["type"] == "PoolScaled"]
    assert [(e["body"]["size"], e["reason"]) for e in scaled][-2:] == [(3, "3 for the test"), (1, "1 for the test")]


@pytest.mark.timeout(180)
async def test_a_pool_grows_with_its_work_and_the_log_says_why(platform: Platform, told: list[str]) -> None:
    platform.cli("pool", "auto", "api", "1..2", "-m", "follow the requests")
    over = asyncio.Event()
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asking = asyncio.create_task(
        load(platform.api_port, lambda number: health, connections=64, seconds=120, until=over)
    )
    began = time.monotonic()
    try:
        await asyncio.to_thread(until, "two API servers", lambda: _settled(platform, "api", 2), 90)
        told.append(f"a second API server for the requests there were: {time.monotonic() - began:.1f} s")
    finally:
        over.set()
        seen = await asking
    assert set(seen.statuses) == {200}

    decided = [e for e in platform.events(stream="pool/api") if e["type"] == "PoolScaled"]
    [grown] = [e for e in decided if e["actor"] == "autoscaler"]
    assert grown["body"]["size"] == 2 and "work for" in grown["reason"], grown
    shown = platform.cli("events", "--stream", "pool/api").out
    assert grown["reason"] in shown, shown
    assert '"size": 2' in platform.cli("replay", "pool/api").out
    platform.cli("pool", "scale", "api=1", "--wait", timeout=SETTLED_SECONDS)


@pytest.mark.timeout(300)
def test_an_owner_that_is_paused_past_its_lease_is_replaced_and_changes_nothing_when_it_wakes(
    platform: Platform, told: list[str]
) -> None:
    """Another supervisor takes over what it owned; woken, it finds itself fenced."""
    assert platform.http("POST", "/v1/teams/default/apps", {"name": "paused"}).status in (201, 409)
    for number in range(8):

        def made(name: str = f"c{number}") -> bool:
            answer = platform.http("POST", "/v1/teams/default/apps/paused/components", {"name": name})
            assert answer.status in (201, 404, 409), answer.text  # 404: the read models have not seen the app yet
            return answer.status != 404

        until(f"component c{number} to be made", made)
    platform.cli("pool", "scale", "supervisor=2", "--wait", timeout=SETTLED_SECONDS)
    owners = {a["name"]: a["partitions"] for a in _pool(platform, "supervisor")["actors"]}  # type: ignore[attr-defined]
    assert all(owners.values()), owners
    zombie = platform.find("ray::LifecycleSupervisor")
    assert zombie is not None
    acknowledged: list[str] = []
    zombie.suspend()
    began = time.monotonic()
    try:
        for number in range(8):
            key = f"paused-{number}"
            target = f"/v1/teams/default/apps/paused/components/c{number}/config"

            def send(target: str = target, key: str = key) -> bool:
                answer = platform.http("PATCH", target, {"set": {"A": key}}, headers={"Idempotency-Key": key})
                return answer.status in (200, 202)

            until(f"{key} to be taken", send, 120)
            acknowledged.append(key)
        told.append(f"a paused supervisor's partitions served by another: {time.monotonic() - began:.1f} s")
    finally:
        with suppress(psutil.NoSuchProcess):  # who is silent for a minute is ended
            zombie.resume()
    until("both supervisors to share the partitions again", lambda: _settled(platform, "supervisor", 2), 120)
    platform.cli("pool", "scale", "supervisor=1", "--wait", timeout=SETTLED_SECONDS)
    platform.cli("log", "verify", timeout=120)
    values = [
        platform.get(f"/v1/teams/default/apps/paused/components/c{number}/config")["config"].get("A")
        for number in range(8)
    ]
    assert values == acknowledged
    changed = [e["command_id"] for e in platform.events(type="SpecChanged")]
    assert len(changed) == len(set(changed)), "a command took effect twice"
