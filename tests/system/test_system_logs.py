"""Log lines stay across redeploys and restarts of the platform; a crash is told with its last lines."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]


def _texts(platform: Platform, app: str, *options: str) -> list[str]:
    return [line["text"] for line in platform.cli("logs", "--app", app, *options).lines]


def test_lines_survive_redeploys_and_can_be_searched(platform: Platform, deploy: Deploy) -> None:
    deploy("talker", apps.web("first release"))
    for word in ("apple", "banana", "cherry"):
        assert platform.visit("talker", f"/say/{word}").status == 200
    until("the lines to be stored", lambda: "cherry" in _texts(platform, "talker"))
    between = datetime.now(UTC).isoformat()
    deploy("talker", apps.web("second release"))
    platform.visit("talker", "/say/dates")
    until("the new release's lines", lambda: "dates" in _texts(platform, "talker"))

    everything = _texts(platform, "talker", "--source", "app")
    told = [t for t in everything if t in ("apple", "banana", "cherry", "dates") or t.startswith("listening")]
    assert told == [
        "listening as first release", "apple", "banana", "cherry", "listening as second release", "dates",
    ]  # fmt: skip
    assert len(_texts(platform, "talker", "-n", "2", "--source", "app")) == 2
    assert _texts(platform, "talker", "--grep", "ban.na", "--source", "app") == ["banana"]
    later = _texts(platform, "talker", "--since", between, "--source", "app")
    assert "dates" in later
    assert "cherry" not in later
    router = until(
        "the gateway's lines",
        lambda: [t for t in _texts(platform, "talker", "--source", "router") if "/say/dates" in t],
    )
    assert "200" in router[0]
    operation = platform.cli("operations", "--app", "talker", "--json").json[0]["operation"]
    said = [line["text"] for line in platform.cli("operations", operation, "--output", "-f").lines]
    assert said[0].startswith("deploy ") and said[-1] == f"operation {operation} succeeded"
    assert any("is ready" in text for text in said)
    numbers = [line["number"] for line in platform.cli("logs", "--app", "talker", "-n", "10000").lines]
    assert numbers == sorted(set(numbers)), "expected every line once and in order"


def test_a_rule_of_the_component_masks_what_is_printed_from_then_on(platform: Platform, deploy: Deploy) -> None:
    deploy("masked", apps.web("one"))
    platform.visit("masked", "/say/card=4111")
    until("the line before", lambda: "card=4111" in _texts(platform, "masked"))
    platform.cli("log-rules", "set", "--app", "masked", "--redact", r"card=(\d+)", "-m", "audit")
    [rules] = platform.cli("log-rules", "--json").json
    assert (rules["app"], rules["redact"]) == ("masked", [r"card=(\d+)"])

    def look() -> bool:
        platform.visit("masked", "/say/card=4222")
        return "card=••••" in _texts(platform, "masked", "--source", "app", "-n", "1")

    until("a line that is masked", look)
    assert "card=4111" in _texts(platform, "masked"), "what is stored stays as it is"
    platform.cli("log-rules", "set", "--app", "masked", "--inherit", "redact")


def _crash(platform: Platform, app: str) -> dict[str, Any]:
    """Crash it once; what is told of the crashed instance."""
    pid = platform.serving(app)["pid"]
    platform.visit(app, "/crash")

    def look() -> dict[str, Any] | None:
        found = platform.get(platform.component(app, "instances?limit=200"))["items"]
        return next((i for i in found if i["pid"] == pid and i["status"] == "crashed"), None)

    return until("the crash to be told", look)


def test_a_crash_is_told_with_its_last_lines_and_backs_off(platform: Platform, deploy: Deploy) -> None:
    deploy("fragile", apps.web("fragile"))
    for number in range(30):
        platform.visit("fragile", f"/say/line-{number}")

    first = _crash(platform, "fragile")

    assert first["exit_code"] == 3
    assert len(first["lines"]) == 20
    assert first["lines"][-1] == "about to crash"
    assert "line-29" in first["lines"][-2]
    pauses = []
    for _ in range(4):
        until("another in its place", lambda: platform.visit("fragile").status == 200)
        crashed = _crash(platform, "fragile")
        pauses.append(_seconds(crashed["ended_at"], crashed["restart_at"]))
    # The first three begin again at once; then the pause doubles from one second on.
    assert pauses[0] < 0.5, pauses
    assert pauses[1] < 0.5, pauses
    assert 0.9 <= pauses[2] <= 1.5, pauses
    assert 1.8 <= pauses[3] <= 2.6, pauses
    waiting = platform.cli("ps", "--app", "fragile").json
    assert [i["status"] for i in waiting] == ["crashed"], waiting
    assert platform.visit("fragile").status == 503
    until("it to serve again by itself", lambda: platform.visit("fragile").status == 200)


def _seconds(before: str, after: str) -> float:
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()


def test_a_restart_of_the_platform_adopts_what_runs(platform: Platform, deploy: Deploy, told: list[str]) -> None:
    deploy("lasting", apps.web("lasting"))
    before = platform.serving("lasting")
    platform.visit("lasting", "/say/before")

    platform.down("--keep-apps")
    assert platform.keeper() is None
    assert platform.serving("lasting") == before, "the gateway and the app go on without the platform"
    platform.visit("lasting", "/say/meanwhile")
    told.append(f"up again with instances to adopt: {platform.up():.1f} s")

    assert platform.serving("lasting") == before
    until("the lines written meanwhile", lambda: "meanwhile" in _texts(platform, "lasting"))
    assert [t for t in _texts(platform, "lasting") if re.fullmatch("before|meanwhile", t)] == ["before", "meanwhile"]
    [instance] = platform.instances("lasting")
    assert (instance["pid"], instance["status"]) == (before["pid"], "ready")
    deploy("lasting", apps.web("changed"))
    assert platform.serving("lasting")["text"] == "changed"
