"""The platform submitted to a Ray cluster that somebody else runs, as a job of that cluster, with its token."""

import json
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray_cluster import RayCluster
from tests.system.platform import ROOT, Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

READY_SECONDS = 240.0


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    found = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    found.chmod(0o711)
    yield found
    shutil.rmtree(found)


@pytest.fixture(scope="module")
def cluster(base: Path) -> Iterator[RayCluster]:
    found = RayCluster(base)
    try:
        found.start_head()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def submitted(base: Path, cluster: RayCluster) -> Iterator[Platform]:
    """The platform that a job brought up, and what the second job of the same kind said."""
    platform = Platform(base / "data")
    try:
        job = submit_up(cluster, platform)

        def told() -> str:
            assert "FAILED" not in cluster.job("status", job), cluster.job("logs", job)
            path = platform.data / "api.json"
            return path.read_text() if path.exists() else ""

        where = json.loads(until("the job to bring the platform up", told, READY_SECONDS))
        platform.api_port = urllib.parse.urlsplit(where["url"]).port or 0
        platform.gateway_port = where["gateway_port"]
        yield platform
    finally:
        if (platform.data / "platform.json").exists():
            platform.down(environment=cluster.environment)
        left = [p.pid for p in platform.processes()]
        for pid in left:
            Platform.end(pid)
    assert not left, f"expected nothing of the platform to run after `rayfold down`, found {left}"


def submit_up(cluster: RayCluster, platform: Platform) -> str:
    ports = ("--api-port", "0", "--gateway-port", "0")
    done = cluster.submit(ROOT, "python", "-m", "api.cli", "up", "--data", str(platform.data), *ports)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"raysubmit_\w+", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return found[0]


def succeeded(cluster: RayCluster, job: str) -> str:
    """What a job printed, once it has ended well."""
    ended = until("the job to end", lambda: re.search("succeeded|failed", cluster.job("status", job)), READY_SECONDS)
    said = cluster.job("logs", job)
    assert ended[0] == "succeeded", said
    return said


def test_a_submitted_platform_is_ready_and_takes_an_application(submitted: Platform) -> None:
    status = submitted.cli("status").json
    assert status["ready"], status

    submitted.cli("deploy", str(ROOT / "examples" / "hello-python"), "--app", "hello")

    assert submitted.visit("hello").text == "Hello from Rayfold\n"


def test_the_platform_comes_back_after_the_head_was_lost(cluster: RayCluster, submitted: Platform) -> None:
    """Ray ends the job with the head, and a new head has none of its packages; the keeper and its code stay."""
    [instance] = submitted.instances("hello")

    cluster.lose_head()
    assert submitted.visit("hello").status == 200, "applications run on"
    cluster.start_head()

    until("the platform to be back", lambda: submitted.ready, READY_SECONDS, submitted.what_it_said)
    assert [i["instance"] for i in submitted.instances("hello")] == [instance["instance"]]


def test_a_second_submission_joins(cluster: RayCluster, submitted: Platform) -> None:
    job = submit_up(cluster, submitted)

    assert "is running already" in succeeded(cluster, job)
    pools = submitted.get("/v1/pools")["items"]
    assert [pool["name"] for pool in pools if not pool["running"] == pool["size"] == 1] == []


def test_the_platform_leaves_and_the_cluster_stays(cluster: RayCluster, submitted: Platform) -> None:
    submitted.down(environment=cluster.environment)

    until("nothing of it to run", lambda: not submitted.processes(), 10)
    done = cluster.submit(ROOT / "examples" / "hello-python", "python", "-c", "print('still', 'here')")
    assert done.returncode == 0, done.stdout + done.stderr
    job = re.search(r"raysubmit_\w+", done.stdout + done.stderr)
    assert job
    assert "still here" in succeeded(cluster, job[0])
