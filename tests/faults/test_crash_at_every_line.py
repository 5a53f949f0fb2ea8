"""Every crash-critical line of the platform's actors: each dies exactly there, once, in the middle of real work.

Each step arms some failpoints, does one thing as a user would, repeating its request until it is answered, and expects
the world to be what it would have been had nobody died. Black box but for the failpoints' names.
"""

import hashlib
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.armed import ArmedPlatform
from tests.system import apps
from tests.system.platform import Answer, Json, Platform, until

# A step that fails says what it found only after all its patience.
pytestmark = [pytest.mark.system, pytest.mark.servers, pytest.mark.timeout(600)]

PROCESSES = ("web", "worker")
WORKER = "import time\nprint('at work', flush=True)\nwhile True:\n    time.sleep(60)\n"
# Until what was asked for is so if nobody dies: an old instance may drain for 30 s and take 10 s to stop.
UNDISTURBED_SECONDS = 60.0
# And for each that dies: until Ray has started the process again and it is open (up to 10 s where all the machine's
# cores are busy), and until whoever called it tries again (5 s, RETRY_MAX_SECONDS of effects).
DEATH_SECONDS = 15.0
ENDINGS = {"OperationSucceeded", "OperationFailed", "OperationCancelled", "OperationTimedOut"}

# Where the partition's owner dies while it writes, and while its successor takes over.
APPENDING = ("supervisor.before-append", "log.append.before", "log.append.answered", "log.append.committed",
             "supervisor.after-commit")  # fmt: skip
CLAIMING = ("log.claim.won", "supervisor.claimed", "supervisor.recovered")
BUILDING = ("effects.build-requested", "effects.build-queued", "builder.claimed", "effects.build-begun",
            "builder-blob-written", "effects.build-ended")  # fmt: skip
# A build is given up after three attempts, so that no more than two builders may die during one.
BUILT = ("builder.begun", "builder-publish")
SAID = ("builder.finished", "builder.told")
STARTING = ("effects.before-start", "node.order-written", "runtime.directories", "runtime.port", "runtime.spec",
            "runtime.spawn", "node.started", "effects.after-start", "node.ready-seen")  # fmt: skip
ROUTING = ("gateway.folded", "effects.applied", "effects.drained")
STOPPING = ("effects.before-stop", "node.marked-over", "node.stopped", "node.exit-seen", "node.exit-told",
            "runtime.removed", "node.removed")  # fmt: skip
# The owner comes here only when the node's answer is faster than the node's own report of the exit.
STOPPED = ("effects.after-stop",)
SIBLINGS = ("effects.sibling-RegisterComponent", "effects.sibling-CreateComponent", "effects.sibling-DeployArtifact",
            "effects.parent-told")  # fmt: skip
PROJECTING = ("projections.folded", "projections.written", "projections.committed")
ASSIGNING = ("reconciler.before-assign", "reconciler.assigned")
LOGGING = ("logs.before-fsync", "logs.after-fsync")
ADDRESSES = ("effects.claimed", "effects.freed")
LEAVING = ("effects.destroy-sent", "effects.deregistered")
EVERY = (*APPENDING, *CLAIMING, *BUILDING, *BUILT, *SAID, *STARTING, *ROUTING, *STOPPING, *STOPPED, *SIBLINGS,
         *PROJECTING, *ASSIGNING, *LOGGING, *ADDRESSES, *LEAVING)  # fmt: skip


@pytest.fixture(scope="module")
def platform() -> Iterator[ArmedPlatform]:
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    (marks := base / "marks").mkdir()
    (data := base / "data").mkdir(mode=0o711)
    found = ArmedPlatform(data, marks, EVERY)
    try:
        found.up()
        yield found
    finally:
        if (data / "platform.json").exists():
            found.down()
        left = [process.pid for process in found.processes()]
        for pid in left:
            Platform.end(pid)
    assert not left, f"expected nothing to run after `rayfold down`, found {left}"
    shutil.rmtree(base)


class Story:
    """One app's life, command by command, and what must be true after each."""

    def __init__(self, platform: ArmedPlatform, app: str) -> None:
        self.platform = platform
        self.app = app
        self.release = 0
        self.commands = 0
        self.patience = UNDISTURBED_SECONDS

    @contextmanager
    def dying_at(self, *lines: str) -> Iterator[None]:
        """Within, whoever first comes to one of these lines dies there; each of them must have killed somebody."""
        self.patience = UNDISTURBED_SECONDS + DEATH_SECONDS * len(lines)
        self.platform.arm(*lines)
        yield
        all_dead = "every armed line to have killed somebody"
        until(all_dead, lambda: not self.platform.armed(), self.patience, lambda: f"{self.platform.armed()} armed")
        self.patience = UNDISTURBED_SECONDS

    def command(self, method: str, target: str, body: object = None) -> Json:
        """Send a command until it is answered, always with the same key; the operation once it has ended."""
        self.commands += 1
        headers = {"Idempotency-Key": f"{self.app}-{self.commands}"}

        def send() -> Answer | None:
            answer = self.platform.http(method, target, body, headers=headers)
            assert answer.status in (0, 200, 202, 503), answer
            return answer if answer.status in (200, 202) else None

        operation: str = until(f"an answer to {method} {target}", send, self.patience).json["operation"]
        ended = self.platform.ended(operation, UNDISTURBED_SECONDS + self.patience)
        assert ended["status"] == "succeeded", (ended, self.platform.what_it_said())
        self.ended_once(ended)
        return ended

    def deploy(self, text: str) -> None:
        files = apps.web(text)
        files |= {"worker.py": WORKER, "Procfile": files["Procfile"] + f"worker: python3 worker.py {text}\n"}
        members = [(tarfile.TarInfo(name), content.encode()) for name, content in files.items()]
        source = apps.tar(members)
        digest = hashlib.sha256(source).hexdigest()
        kind = {"Content-Type": "application/x-tar"}
        put = self.platform.http("PUT", f"/v1/teams/default/uploads/{digest}", headers=kind, raw=source)
        assert put.status in (200, 201), put
        body = {"source": {"kind": "upload", "digest": digest}, "create": True}
        self.command("POST", self.platform.component(self.app, "deploys"), body)
        self.release += 1
        assert self.platform.serving(self.app)["text"] == text
        self.as_it_should_be()

    def change(self, method: str, below: tuple[str, ...], body: object, scale: int = 1) -> None:
        self.command(method, self.platform.component(self.app, *below), body)
        self.release += 1
        self.as_it_should_be(scale)

    def ended_once(self, operation: Json) -> None:
        told = self.platform.events(operation=operation["operation"])
        types = Counter(event["type"] for event in told if event["stream"] == operation["stream"])
        assert types["OperationStarted"] == 1, types
        assert sum(types[ending] for ending in ENDINGS) == 1, types
        assert all(types[once] <= 1 for once in ("ReleaseCreated", "BuildSucceeded", "RolloutSucceeded")), types

    def as_it_should_be(self, scale: int = 1) -> None:
        """The right release, exactly the instances that should run, and read models that agree with the log."""
        wanted = {"web": scale, "worker": 1}
        for process in PROCESSES:
            self._agrees(process, wanted[process])
        right = "exactly the right processes to run"
        until(right, lambda: self._running() == wanted, self.patience, lambda: self._picture(wanted))
        assert self.platform.serving(self.app)["release"] <= self.release

    def _path(self, process: str, *below: str) -> str:
        return "/".join([f"/v1/teams/default/apps/{self.app}/components/{process}", *below])

    def _agrees(self, process: str, scale: int) -> None:
        seen: list[dict[str, str]] = []

        def look() -> bool:
            view = self.platform.get(self._path(process))
            replayed = self.platform.get(f"/v1/replay/component/{view['service_id']}?version={view['version']}")
            state = replayed["state"]
            rows = self.platform.get(self._path(process, "instances?limit=200"))["items"]
            alive = {row["instance"]: row["status"] for row in rows if row["alive"]}
            if view["version"] != self.platform.get(self._path(process))["version"]:
                return False  # it moved while we looked
            seen.append(alive)
            assert view["release"] == state["current"]
            assert alive == {i["id"]: i["status"] for i in state["instances"].values()}
            assert sorted(alive.values()).count("ready") <= scale
            return list(alive.values()) == ["ready"] * scale

        until(f"{scale} ready of {process} and no other", look, self.patience, lambda: seen[-1:])
        releases = [row["number"] for row in self.platform.get(self._path(process, "releases"))["items"]]
        assert releases == sorted(range(1, len(releases) + 1), reverse=True)
        if process == "web":
            assert releases[0] == self.release == self.platform.get(self._path(process))["release"]

    def _running(self) -> dict[str, int]:
        """How many application processes run by component; each must be one that the log knows, with one shim."""
        ids = {row["instance"]: process for process in PROCESSES for row in self._instances(process) if row["alive"]}
        found = Counter(
            ids.get(instance, instance) for instance in self.platform.application_processes(self.app).values()
        )
        mine = self.platform.shims(self.app)
        shims = Counter(ids.get(instance, instance) for instance in mine.values())
        return dict(found) if found == shims else {"processes": found.total(), "shims": shims.total()}

    def _instances(self, process: str) -> list[Json]:
        found: list[Json] = self.platform.get(self._path(process, "instances?limit=200"))["items"]
        return found

    def _picture(self, wanted: dict[str, int]) -> str:
        """All there is to see of the app's instances, for whoever must find out why they are not as they should be."""
        told = [f"{self._running()} where {wanted} should be; still armed: {self.platform.armed()}"]
        told.append(f"  processes: {self.platform.application_processes(self.app)}")
        told.append(f"  shims: {self.platform.shims(self.app)}")
        told += [f"  {process}: {row}" for process in PROCESSES for row in self._instances(process)]
        return "\n".join(told)


@pytest.fixture
def story(platform: ArmedPlatform, request: pytest.FixtureRequest) -> Iterator[Story]:
    """An app of its own for each test; afterwards nothing is armed any more, and everything armed was hit."""
    failed_before = request.session.testsfailed
    yield Story(platform, request.node.name.removeprefix("test_").replace("_", "-")[:39].rstrip("-"))
    if request.session.testsfailed > failed_before:
        print(platform.what_it_said())
    platform.disarm()


def test_the_owner_while_it_writes_and_its_successors_while_they_take_over(story: Story) -> None:
    with story.dying_at(*APPENDING, *CLAIMING):
        story.deploy("one")


def test_a_build(story: Story) -> None:
    with story.dying_at(*BUILDING):
        story.deploy("one")
    with story.dying_at(*BUILT):
        story.deploy("two")
    with story.dying_at(*SAID):
        story.deploy("three")


def test_the_start_of_instances(story: Story) -> None:
    with story.dying_at(*STARTING):
        story.deploy("one")


def test_the_switch_to_a_new_release_and_the_end_of_the_old_one(story: Story) -> None:
    story.deploy("one")
    with story.dying_at(*ROUTING, *STOPPING):
        story.deploy("two")
    with story.dying_at(*STOPPED):
        for text in ("three", "four", "five", "six", "seven"):
            story.deploy(text)
            if not story.platform.armed():
                break


def test_the_other_processes_of_a_build(story: Story) -> None:
    with story.dying_at(*SIBLINGS):
        story.deploy("one")


def test_those_who_write_down_what_happened_and_those_who_share_out_work(story: Story) -> None:
    story.deploy("one")
    with story.dying_at(*PROJECTING, *ASSIGNING, *LOGGING):
        story.change("PATCH", (), {"scale": 2}, scale=2)
        assert story.platform.visit(story.app, "/say/hello").status == 200
    story.change("PATCH", (), {"scale": 1})


def test_a_rollback(story: Story) -> None:
    story.deploy("one")
    story.deploy("two")
    with story.dying_at("supervisor.after-commit", "effects.after-start", "effects.applied", "node.stopped"):
        story.change("POST", ("rollbacks",), {})
    assert story.platform.serving(story.app)["text"] == "one"


def test_addresses_that_are_claimed_and_freed(story: Story) -> None:
    story.deploy("one")
    name = f"elsewhere.{story.app}"
    with story.dying_at("effects.claimed"):
        story.change("POST", ("routes",), {"host": f"{name}.localhost"})
    assert story.platform.visit(name).status == 200
    with story.dying_at("effects.freed"):
        story.change("DELETE", (f"routes?host={name}.localhost",), None)
    assert story.platform.visit(name).status == 404


def test_a_destruction(story: Story) -> None:
    story.deploy("one")
    with story.dying_at(*LEAVING):
        story.command("DELETE", f"/v1/teams/default/apps/{story.app}")
    until("nothing of it to run", lambda: not story.platform.application_processes(story.app), 20)
    assert story.platform.visit(story.app).status == 404
