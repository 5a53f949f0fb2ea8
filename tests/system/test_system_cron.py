"""Cron jobs on the real platform, through the command line: run by hand, by the clock, and over the owner's death."""

import json

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]


def test_a_job_is_set_run_by_hand_suspended_and_removed(platform: Platform, deploy: Deploy) -> None:
    deploy("tidied", apps.web("one"))
    cron = ("cron", "--app", "tidied")
    platform.cli("cron", "set", "--app", "tidied", "--zone", "Europe/Berlin", "-m", "it piles up", "tidy", "30 3 * * *",
                 'echo "tidied by $RAYFOLD_APP"')  # fmt: skip
    [job] = platform.cli(*cron).json
    assert (job["name"], job["zone"], job["policy"], job["suspended"]) == ("tidy", "Europe/Berlin", "forbid", False)
    assert job["next_at"]

    done = platform.cli("cron", "run", "tidy", "--app", "tidied").json

    assert done["exit_code"] == 0
    assert "tidied by tidied" in done["lines"]
    told = platform.cli("cron", "info", "tidy", "--app", "tidied").json
    [run] = told["runs"]
    assert (run["operation"], run["status"], run["tick"]) == (done["operation"], "succeeded", None)
    platform.cli("cron", "suspend", "tidy", "--app", "tidied")
    held = until("it to rest", lambda: [j for j in platform.cli(*cron).json if j["suspended"]])
    assert held[0]["next_at"] is None
    platform.cli("cron", "resume", "tidy", "--app", "tidied")
    platform.cli("cron", "remove", "tidy", "--app", "tidied")
    until("it to be gone", lambda: platform.cli(*cron).json == [])
    assert platform.cli("cron", "run", "tidy", "--app", "tidied", expect=3).error["code"] == "not_found"
    refused = platform.cli("cron", "set", "--app", "tidied", "tidy", "61 * * * *", "true", expect=2)
    assert "Bad minute" in json.dumps(refused.error)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ticks_come_once_though_their_owner_is_killed(platform: Platform, deploy: Deploy) -> None:
    deploy("ticking", apps.web("one"))
    platform.cli("cron", "set", "--app", "ticking", "tick", "* * * * *", 'echo "tick of $RAYFOLD_INSTANCE"')
    owner = platform.find("LifecycleSupervisor")
    assert owner is not None
    owner.kill()

    def runs(count: int) -> list[dict[str, object]] | None:
        found = platform.get(platform.component("ticking", "crons", "tick", "runs"))["items"]
        ended = [run for run in found if run["status"] == "succeeded"]
        return ended if len(ended) >= count else None

    until("the first tick's run", lambda: runs(1), 120)
    again = until("the supervisor to be back", lambda: platform.find("LifecycleSupervisor"), 60)
    again.kill()
    found = until("another tick's run", lambda: runs(2), 150)
    platform.cli("cron", "suspend", "tick", "--app", "ticking")

    assert len({run["tick"] for run in found}) == len(found), "no tick twice"
    events = platform.events(app="ticking")
    ticked = [e["body"]["operation"] for e in events if e["type"] == "CronTicked"]
    asked = [e["body"]["operation"] for e in events if e["type"] == "TaskRequested"]
    assert ticked == asked and len(set(ticked)) == len(ticked)
    lines = [line["text"] for line in platform.cli("logs", "--app", "ticking", "-n", "100").lines]
    said = [line for line in lines if line.startswith("tick of ")]
    assert len(said) == len(set(said)), "no run twice"
