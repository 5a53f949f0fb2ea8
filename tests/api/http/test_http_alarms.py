"""Alarms on log lines: gaps are told in the status to those whose lines they are, and by rules for Prometheus."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from actors.logs.totals import Loss, StoreTotals
from tests.api.http.conftest import House
from tests.toolchains import need

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[3]
RULES = ROOT / "docs/deploy/prometheus/log-lines.rules.yml"
CASES = ROOT / "tests/actors/logs/log-lines.test.yml"


async def test_lines_that_were_lost_are_an_alarm_to_those_whose_they_are(house: House) -> None:
    made = await house.deploy("/v1/teams/default/apps/shop/components/web")
    await house.settled(made.json["position"])
    token = await house.team("others")
    totals = StoreTotals(losses={made.json["service_id"]: Loss(lines=12, at=1_764_200_000.0)})

    async def told() -> StoreTotals:
        return totals

    assert (await house.get("/v1/status")).json["alarms"] == []
    house.logs.totals = told  # type: ignore[method-assign]
    shown = (await house.get("/v1/status")).json
    [alarm] = shown["alarms"]
    assert (alarm["app"], alarm["component"]) == ("shop", "web")
    assert alarm["found"].startswith("12 within the last hour") and "rayfold logs" in alarm["fix"]
    assert shown["ready"] == all(check["ok"] for check in shown["checks"]), "an alarm is no want of readiness"
    assert (await house.get("/v1/status", token=token)).json["alarms"] == []


async def test_the_alarms_for_prometheus_fire_when_they_should(tmp_path: Path) -> None:
    need("promtool")
    for path in (RULES, CASES):
        shutil.copy(path, tmp_path)
    for command in (("check", "rules", RULES.name), ("test", "rules", CASES.name)):
        ran = await asyncio.create_subprocess_exec(
            "promtool", *command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await ran.communicate()
        assert ran.returncode == 0, said.decode()


async def test_the_alarms_for_prometheus_name_metrics_that_there_are(house: House) -> None:
    text = (await house.get("/metrics")).text
    named = set(re.findall(r"rayfold_[a-z_]+", RULES.read_text()))
    assert len(named) == 4
    assert [name for name in named if f"# TYPE {name.removesuffix('_total')}" not in text] == []
