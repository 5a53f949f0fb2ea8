"""kill -9 of every platform process in turn, under load and in the middle of a deploy: applications never notice, the
deploy ends once and right, nothing acknowledged is lost."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.system import apps
from tests.system.platform import Platform, free_port, until
from tests.system.traffic import Traffic

pytestmark = [pytest.mark.system, pytest.mark.servers]

RATE = 40.0
RECOVERY_SECONDS = 75.0
RAY = "ray::"

# Words on the command line of each process, and the phase of the deploy in which it is killed.
VICTIMS = {
    "keeper": (("api.up",), "building"),
    "etcd": (("/etcd", "--data-dir"), "building"),
    "envoy": (("/envoy", "-c"), "starting"),
    "gcs-server": (("gcs_server",), "building"),
    "raylet": (("/raylet/raylet",), "starting"),
    "ray-dashboard": (("dashboard.py",), "building"),
    "ray-dashboard-agent": ((RAY + "DashboardAgent",), "building"),
    "ray-runtime-env-agent": ((RAY + "RuntimeEnvAgent",), "starting"),
    "supervisor-building": ((RAY + "LifecycleSupervisor",), "building"),
    "supervisor-starting": ((RAY + "LifecycleSupervisor",), "starting"),
    "builder": ((RAY + "Builder",), "building"),
    "eventlog": ((RAY + "EventlogPartition",), "building"),
    "gateway": ((RAY + "GatewayNode",), "starting"),
    "node": ((RAY + "NodeAgent",), "starting"),
    "projector": ((RAY + "Projector",), "building"),
    "api": ((RAY + "ApiServer",), "building"),
    "reconciler": ((RAY + "Reconciler",), "starting"),
    "shim": (("shim/__main__.py",), "starting"),
}
# Ray gives these no second life of their own, and nothing here needs them while it is up.
NOT_REPLACED = {"ray-dashboard"}
ENDINGS = ("OperationSucceeded", "OperationFailed", "OperationTimedOut", "OperationCancelled")


@dataclass
class Ledger:
    """Keeps changing a component's configuration, and remembers what was acknowledged."""

    platform: Platform
    prefix: str
    acknowledged: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self.over.wait(0.05):
            number += 1
            key = f"{self.prefix}_{number}"
            target = self.platform.component("ledger", "config")
            headers = {"Idempotency-Key": key}
            if self.platform.http("PATCH", target, {"set": {key: "x"}}, headers=headers).status in (200, 202):
                self.acknowledged.append(key)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture
def bystander(platform: Platform, sources: Path) -> str:
    """An app that nobody touches."""
    if platform.visit("bystander").status != 200:
        directory = apps.write(sources / "bystander", apps.web("bystander"))
        platform.cli("deploy", str(directory), "--app", "bystander")
    return "bystander"


@pytest.fixture
def ledger(platform: Platform, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Changes of configuration, one after the other, acknowledged or not."""
    if platform.http("GET", platform.component("ledger")).status == 404:
        assert platform.http("POST", "/v1/teams/default/apps", {"name": "ledger"}).status == 201

        def made() -> bool:
            answer = platform.http("POST", "/v1/teams/default/apps/ledger/components", {"name": "web"})
            assert answer.status in (201, 404), answer  # 404: the read models have not seen the app yet
            return answer.status == 201

        until("the component to be made", made)
    found = Ledger(platform, "K_" + request.node.callspec.id.replace("-", "_").upper())
    thread = threading.Thread(target=found.run)
    thread.start()
    yield found
    found.over.set()
    thread.join(30)


def _began(platform: Platform, source: Path, text: str) -> str:
    """Begin a deploy that takes a while in each of its phases; its operation."""
    files = apps.web(text, start_seconds=1.5)
    # To be compiled, which takes the build a second.
    files["ballast.py"] = "\n".join(f"def f{n}(a, b):\n    return [a, b, {n}]" for n in range(20_000))
    files["Procfile"] += 'release: python3 -c "import time; time.sleep(0.7)"\n'
    ran = platform.cli("deploy", str(apps.write(source, files)), "--app", "moving", "--detach")
    operation: str = ran.json["operation"]
    return operation


def _reached(platform: Platform, operation: str, phase: str) -> None:
    def look() -> bool:
        answer = platform.http("GET", f"/v1/operations/{operation}")
        return answer.status == 200 and bool(answer.json["phase"] == phase)

    until(f"the deploy to be {phase}", look)


def _victim(platform: Platform, name: str, bystander: str) -> psutil.Process:
    words, _ = VICTIMS[name]
    if name == "shim":
        words = (*words, platform.instances(bystander)[0]["instance"])
    found = platform.find(*words)
    assert found is not None, f"expected a process with {words}"
    return found


def _others(platform: Platform) -> dict[str, int | None]:
    """The processes that only a keeper starts."""
    found = {name: platform.find(*VICTIMS[name][0]) for name in ("etcd", "gcs-server", "raylet", "envoy")}
    return {name: process.pid if process else None for name, process in found.items()}


def _again(platform: Platform, name: str, old: psutil.Process, bystander: str) -> Callable[[], psutil.Process | None]:
    def look() -> psutil.Process | None:
        try:
            found = _victim(platform, name, bystander)
        except AssertionError:
            return None
        return found if found.pid != old.pid else None

    return look


@pytest.mark.parametrize("name", VICTIMS)
def test_kill_9(platform: Platform, bystander: str, ledger: Ledger, sources: Path, told: list[str], name: str) -> None:
    if platform.visit("moving").status != 200:
        platform.ended(_began(platform, sources / "moving", "zero"))
    resident, before = platform.serving(bystander), platform.serving("moving")
    until("the first acknowledged change", lambda: len(ledger.acknowledged) >= 2)
    with Traffic(platform, bystander, rate=RATE) as resting, Traffic(platform, "moving", rate=RATE) as moving:
        victim, others = _victim(platform, name, bystander), _others(platform)
        operation = _began(platform, sources / "moving", f"after {name}")
        _reached(platform, operation, VICTIMS[name][1])
        Platform.end(victim.pid)
        killed = time.monotonic()
        if name == "keeper":
            platform.up()
            assert _others(platform) == others, "without its keeper everything goes on, and the next adopts it"
        ended = platform.ended(operation, RECOVERY_SECONDS)
        deployed = time.monotonic() - killed
        if name not in NOT_REPLACED:
            until(f"another {name}", _again(platform, name, victim, bystander), RECOVERY_SECONDS)
        until("the platform to be ready", lambda: platform.ready, RECOVERY_SECONDS)
        recovered = time.monotonic() - killed
        until("new changes to be acknowledged", _grows(ledger))
        ledger.over.set()
        after, resident_after = platform.serving("moving"), platform.serving(bystander)

    told.append(
        f"kill -9 {name:<22} deploy done after {deployed:4.1f} s, all back after {recovered:4.1f} s; requests: "
        f"{resting.sent + moving.sent} sent, {resting.failed + moving.failed} failed"
    )
    assert ended["status"] == "succeeded", ended
    endings = [e["type"] for e in platform.events(operation=operation) if e["type"] in ENDINGS]
    assert endings == ["OperationSucceeded"], endings
    assert after["text"] == f"after {name}"
    assert after["release"] == before["release"] + 1
    assert len(platform.instances("moving")) == 1
    assert resident_after == resident, "an app that nobody touched goes on in the same process"
    config = platform.get(platform.component("ledger", "config"))["config"]
    assert set(ledger.acknowledged) <= set(config), "a change that was acknowledged is gone"
    if name == "envoy":
        assert resting.failed < RATE * 5, resting.told()
        assert all("status 5" not in failure for phase in resting.phases.values() for failure in phase["failures"])
    else:
        assert resting.failed + moving.failed == 0, "\n".join([*resting.told(), *moving.told()])


def _grows(ledger: Ledger) -> Callable[[], bool]:
    count = len(ledger.acknowledged)
    return lambda: len(ledger.acknowledged) > count


def test_kill_9_of_everything_at_once(platform: Platform, bystander: str, sources: Path, told: list[str]) -> None:
    """As when memory runs out: the applications with their shims are all that is left."""
    resident = platform.serving(bystander)
    operation = _began(platform, sources / "moving", "after everything")
    _reached(platform, operation, "building")
    doomed = [process for process in platform.processes() if not _application(process)]
    for process in doomed:
        # All at once: a builder that outlives its build's process by a moment would rightly say that the build failed.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in doomed:
        Platform.end(process.pid)

    told.append(f"up after kill -9 of everything at once: {platform.up():.1f} s")

    ended = platform.ended(operation, RECOVERY_SECONDS)
    assert ended["status"] == "succeeded", ended
    assert platform.serving("moving")["text"] == "after everything"
    assert platform.serving(bystander) == resident
    [adopted] = platform.instances(bystander)
    assert (adopted["pid"], adopted["status"]) == (resident["pid"], "ready")


def test_an_up_that_is_refused_changes_nothing(platform: Platform) -> None:
    keeper = platform.keeper()
    assert keeper is not None
    Platform.end(keeper.pid)

    refused = platform.cli("up", "--detach", "--api-port", str(free_port()), expect=1)

    assert f"--api-port {platform.api_port}" in refused.err, refused
    assert "rayfold down --keep-apps" in refused.err
    assert platform.cli("apps").code == 0, "what runs can still be reached"
    platform.up()
    assert "running already" in platform.cli("up", "--detach").err


def _application(process: psutil.Process) -> bool:
    """Whether it is an instance's process or shim."""
    try:
        return "RAYFOLD_SERVICE_ID" in process.environ() or "shim/__main__.py" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
