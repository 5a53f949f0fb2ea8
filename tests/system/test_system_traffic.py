"""Zero failed requests is an invariant: whatever is changed or crashes while visitors come."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.scheduling import policies
from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until
from tests.system.traffic import Traffic

pytestmark = [pytest.mark.system, pytest.mark.servers]

APP = "busy"
RATE = 210.0


def test_no_request_fails_while_everything_changes(
    platform: Platform,
    deploy: Deploy,
    scale_of: Callable[[str, int], list[dict[str, object]]],
    tmp_path: Path,
    told: list[str],
) -> None:
    """Redeploy, configuration, rollback, scale 1 → 3, a crash of one of three, scale 3 → 1."""
    deploy(APP, apps.web("one", work_seconds=0.02))
    with Traffic(platform, APP, rate=RATE) as traffic:
        traffic.phase("redeploy")
        deploy(APP, apps.web("two", work_seconds=0.02))
        assert platform.serving(APP)["text"] == "two"
        traffic.phase("config set")
        platform.cli("config", "set", "GREETING=hello", "--app", APP)
        assert platform.serving(APP)["greeting"] == "hello"
        traffic.phase("rollback")
        platform.cli("rollback", "v1", "--app", APP)
        now = platform.serving(APP)
        assert (now["text"], now["greeting"]) == ("one", "")
        traffic.phase("scale 1 → 3")
        platform.cli("ps", "scale", "web=3", "--app", APP)
        instances = scale_of(APP, 3)
        until("every instance to serve", lambda: len({platform.serving(APP)["pid"] for _ in range(12)}) == 3)
        traffic.phase("kill -9 one of three")
        victim = int(str(instances[0]["pid"]))
        Platform.end(victim)
        until("another in its place", lambda: victim not in {i["pid"] for i in scale_of(APP, 3)})
        traffic.phase("scale 3 → 1")
        platform.cli("ps", "scale", "web=1", "--app", APP)
        scale_of(APP, 1)
        traffic.phase("restart")
        platform.cli("ps", "restart", "--app", APP)
        traffic.phase("after")
    told += traffic.told()
    assert traffic.failed == 0, "\n".join(traffic.told())
    assert traffic.rate >= 200, f"expected at least 200 requests/s, found {traffic.rate:.0f}"


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs sched(7)")
def test_the_platform_gives_way_to_the_applications(platform: Platform, deploy: Deploy) -> None:
    deploy("first", apps.web("one"))
    instance = int(str(platform.serving("first")["pid"]))

    def process(*words: str) -> int:
        found = platform.find(*words)
        assert found is not None, f"expected a process of the platform with {words}, found none"
        return found.pid

    for words in (("etcd", "--data-dir"), ("ray::LifecycleSupervisor",), ("ray::ApiServer",), ("ray::Projector",)):
        assert policies(process(*words)) == {os.SCHED_BATCH}, words
    for pid in (instance, process("ray::NodeAgent"), process("/envoy", "-c")):
        assert policies(pid) == {os.SCHED_OTHER}, psutil.Process(pid).cmdline()
