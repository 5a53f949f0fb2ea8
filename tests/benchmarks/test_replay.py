"""The fold's benchmark folds all of what it filled in, hot and archived, in the shape docs/benchmarks.md promises."""

import json

import pytest

from benchmarks import replay

pytestmark = [pytest.mark.servers, pytest.mark.long]  # some 12 s of processes that start; test_folds is its short part
EVENTS = 4000
LIFE = 300  # events, at most


async def test_every_case_folds_the_whole_of_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "QUICK_EVENTS", EVENTS)
    monkeypatch.setattr(replay, "QUICK_PEER_EVENTS", 500)
    monkeypatch.setattr(replay, "ROUNDS", 1)
    line = json.loads(json.dumps(await replay.run(quick=True)))
    assert (line["benchmark"], set(line)) == ("replay", {"benchmark", "machine", "cases", "peers", "ratios"})
    assert [case["case"] for case in line["cases"]] == [
        "hot, one process", "hot, two processes", "archive, one process", "archive, two processes",
    ]  # fmt: skip
    for case in line["cases"]:
        assert EVENTS <= case["count"] / case["processes"] < EVENTS + LIFE
        assert case["per_second"] == pytest.approx(case["count"] / case["seconds"], rel=0.05)
    assert [case["streams"] for case in line["cases"][:2]] == [case["streams"] for case in line["cases"][2:]]
    assert all(peer["events_as"] for peer in line["peers"]) and len(line["ratios"]) == 4
