"""One effect for each key, one winner for each component: what is sent twice or at once."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Answer, Platform

pytestmark = [pytest.mark.system, pytest.mark.servers]

AT_ONCE = 50


def _source(platform: Platform, app: str) -> dict[str, str]:
    """The source of the app's newest build."""
    build = platform.get(platform.component(app, "builds?limit=1"))["items"][0]
    found: dict[str, str] = build["source"]
    return {"kind": "upload", "digest": found["digest"]}


def test_the_same_post_twice_has_one_effect(platform: Platform, deploy: Deploy) -> None:
    deploy("twice", apps.web("twice"))
    body = {"source": _source(platform, "twice"), "reason": "sent twice"}
    headers = {"Idempotency-Key": "the-same-key"}
    target = platform.component("twice", "deploys")

    first = platform.http("POST", target, body, headers=headers)
    second = platform.http("POST", target, body, headers=headers)
    assert first.status == 202, first
    operation = platform.ended(first.json["operation"])
    third = platform.http("POST", target, body, headers=headers)

    assert operation["status"] == "succeeded"
    for repeated in (second, third):
        assert repeated.status in (200, 202), repeated
        # The version is the stream's of the moment; all that tells of the effect is the same.
        for name in ("operation", "position", "stream", "service_id"):
            assert repeated.json[name] == first.json[name], (name, repeated.json, first.json)
    releases = platform.get(platform.component("twice", "releases"))["items"]
    assert [r["number"] for r in releases] == [2, 1]
    begun = platform.events(app="twice", operation=first.json["operation"], type="OperationStarted")
    assert len(begun) == 1, begun


def test_of_fifty_deploys_at_once_one_goes_live(platform: Platform, deploy: Deploy, told: list[str]) -> None:
    deploy("contested", apps.web("contested", release_seconds=1.0))
    body = {"source": _source(platform, "contested")}
    target = platform.component("contested", "deploys")
    together = threading.Barrier(AT_ONCE)

    def send(number: int) -> Answer:
        together.wait()
        return platform.http("POST", target, body, headers={"Idempotency-Key": f"contested-{number}"})

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(send, range(AT_ONCE)))

    statuses = Counter(answer.status for answer in answers)
    told.append(f"50 deploys at once: {dict(statuses)}")
    # Those that wait for a builder give way to newer ones; once a build has begun the newer ones are refused.
    assert statuses.keys() <= {202, 409}, [a.text for a in answers if a.status not in (202, 409)]
    assert statuses[202] >= 1 and statuses.total() == AT_ONCE
    assert {a.json["code"] for a in answers if a.status == 409} <= {"conflict"}
    ended = [platform.ended(a.json["operation"]) for a in answers if a.status == 202]
    assert Counter(e["status"] for e in ended) == Counter(succeeded=1, cancelled=statuses[202] - 1)
    accepted = {e["operation"] for e in ended}
    for superseded in (e for e in ended if e["status"] == "cancelled"):
        assert any(newer in superseded["reason"] for newer in accepted - {superseded["operation"]}), superseded
    releases = platform.get(platform.component("contested", "releases"))["items"]
    assert [r["number"] for r in releases] == [2, 1]
    assert platform.get(platform.component("contested"))["release"] == 2
    # The content of the release is the same, so the instance that runs may stay.
    assert platform.serving("contested")["text"] == "contested"
    assert len(platform.instances("contested")) == 1


def test_a_version_that_moved_is_told_with_what_happened(platform: Platform, deploy: Deploy, tmp_path: Path) -> None:
    deploy("moved", apps.web("moved"))
    seen = platform.get(platform.component("moved"))["version"]
    deploy("moved", apps.web("moved again"))

    late = platform.http("PATCH", platform.component("moved"), {"scale": 2}, headers={"If-Match": f'"{seen}"'})

    assert late.status == 412, late
    assert late.json["code"] == "version_mismatch"
    assert "ReleaseCreated" in {event["type"] for event in late.json["events"]}
    assert platform.get(platform.component("moved"))["scale"] == 1
