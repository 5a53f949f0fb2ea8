"""Many builds asked for at once, and builders that are killed amid them: each ends once, in order, within the limit."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

FEW = 6
MANY = 50
BUILD_ENDS = ("BuildSucceeded", "BuildFailed", "BuildCancelled", "BuildTimedOut")


def _deploy_all(platform: Platform, source: dict[str, str], names: list[str]) -> list[str]:
    """Ask for all of them; the operations."""
    operations = []
    for name in names:
        body = {"source": source, "create": True}
        answer = platform.http("POST", platform.component(name, "deploys"), body)
        assert answer.status == 202, answer
        operations.append(answer.json["operation"])
    return operations


def _source(platform: Platform, app: str) -> dict[str, str]:
    build = platform.get(platform.component(app, "builds?limit=1"))["items"][0]
    return {"kind": "upload", "digest": build["source"]["digest"]}


def _spans(platform: Platform, names: list[str]) -> list[tuple[datetime, datetime]]:
    """From each last beginning of a build to its end; every build began, and ended once."""
    spans = []
    for name in names:
        told = [e for e in platform.events(app=name) if e["stream"].startswith("build/")]
        ends = [e for e in told if e["type"] in BUILD_ENDS]
        assert Counter(e["type"] for e in ends) == {"BuildSucceeded": 1}, (name, [e["type"] for e in told])
        begun = [e for e in told if e["type"] == "BuildStarted"]
        spans.append((datetime.fromisoformat(begun[-1]["at"]), datetime.fromisoformat(ends[0]["at"])))
    return spans


def _most_at_once(spans: list[tuple[datetime, datetime]]) -> int:
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


def _nothing_is_left(platform: Platform) -> None:
    work = Path(json.loads((platform.data / "platform.json").read_text())["node_root"]) / "builds"
    until("no build's directory to be left", lambda: not any(work.iterdir()))
    until("no build's process to be left", lambda: platform.find(str(work)) is None)


def _destroy(platform: Platform, names: Sequence[str]) -> None:
    for name in names:
        platform.ended(platform.http("DELETE", f"/v1/teams/default/apps/{name}").json["operation"])


def _builder(platform: Platform) -> int:
    found = platform.find("ray::Builder")
    return found.pid if found else 0


def _burst(platform: Platform, deploy: Deploy, count: int, told: list[str]) -> None:
    deploy("first", apps.web("first"))
    names = [f"burst-{count}-{n}" for n in range(count)]
    operations = _deploy_all(platform, _source(platform, "first"), names)
    again = platform.http(
        "POST", platform.component(names[0], "deploys"), {"source": _source(platform, "first"), "create": True}
    )
    assert again.status in (202, 409), again
    for operation in operations:
        assert platform.ended(operation, 300.0)["status"] == "succeeded"
    if again.status == 202:
        platform.ended(again.json["operation"], 300.0)
    limit = os.cpu_count() or 1
    most = _most_at_once(_spans(platform, names[1:]))
    told.append(f"{count} builds at once: at most {most} of {limit} at a time")
    assert most <= limit
    _nothing_is_left(platform)
    _destroy(platform, (*names, "first"))


def test_builds_asked_for_at_once_all_end_within_the_limit(platform: Platform, deploy: Deploy, told: list[str]) -> None:
    _burst(platform, deploy, FEW, told)


@pytest.mark.long
def test_fifty_builds_asked_for_at_once(platform: Platform, deploy: Deploy, told: list[str]) -> None:
    _burst(platform, deploy, MANY, told)


def test_builds_end_once_although_their_builder_is_killed(platform: Platform, deploy: Deploy, told: list[str]) -> None:
    deploy("seed", apps.web("seed"))
    names = [f"killed-{n}" for n in range(4)]
    operations = _deploy_all(platform, _source(platform, "seed"), names)
    killed = _builder(platform)
    assert killed
    platform.end(killed)
    until("another builder", lambda: _builder(platform) not in (0, killed), 60)
    for operation in operations:
        assert platform.ended(operation, 120.0)["status"] == "succeeded"
    _spans(platform, names)
    _nothing_is_left(platform)
    _destroy(platform, (*names, "seed"))
