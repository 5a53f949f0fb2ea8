"""Any past moment can be shown and compared; a rollback restores configuration; several process types in one app."""

from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import ROOT, Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]


def test_replay_and_diff_tell_the_same_over_both_ways_in(platform: Platform, deploy: Deploy) -> None:
    deploy("storied", apps.web("one"), "-m", "the beginning")
    then = platform.get(platform.component("storied"))
    platform.cli("config", "set", "GREETING=hello", "--app", "storied", "-m", "be polite")
    deploy("storied", apps.web("two"))
    stream = f"component/{then['service_id']}"

    by_command = platform.cli("replay", "storied", "--version", str(then["version"])).json
    by_http = platform.get(f"/v1/replay/{stream}?version={then['version']}")
    assert by_command == by_http
    assert by_http["state"]["current"] == 1
    assert by_http["state"]["spec"]["config"] == {}
    offset = by_http["position"].partition(":")[2]
    assert platform.cli("replay", "storied", "--offset", offset).json == by_http
    assert platform.get(f"/v1/replay/{stream}?at={by_http['at'].replace('+', '%2B')}")["version"] >= then["version"]

    changed = platform.cli("diff", "storied", f"v{then['version']}").json
    assert changed == platform.get(f"/v1/diff/{stream}?from=v{then['version']}")
    paths = {change["path"]: (change["before"], change["after"]) for change in changed["changes"]}
    assert paths["current"] == (1, 3)
    assert ("hello" in str(paths)) and any("GREETING" in path for path in paths)

    events = platform.cli("events", "--stream", "storied").lines
    assert [e["version"] for e in events] == list(range(1, len(events) + 1)), "every event of the stream, in order"
    reasons = {e["reason"] for e in events}
    assert {"the beginning", "be polite"} <= reasons


def test_an_hour_is_debugged_on_the_platform_and_offline(
    platform: Platform, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("puzzling", apps.web("one"), "-m", "the beginning")
    platform.cli("config", "set", "GREETING=hello", "--app", "puzzling", "-m", "be polite")

    story = platform.cli("why", "puzzling", "config.GREETING").json
    assert (story["value"], story["settings"][0]["by"]["asked_reason"]) == ("hello", "be polite")
    changed = platform.cli("diff", "--app", "puzzling", "--from", "1h").json
    assert {"app", "config", "releases", "instances", "builds"} <= {c["area"] for c in changed["changes"]}
    tried = platform.cli("whatif", "puzzling", "--command", '{"type":"Rollback"}').json
    assert [e["type"] for e in tried["outcomes"][0]["events"]][:2] == ["OperationStarted", "ReleaseCreated"]
    ready = [s for s in platform.cli("replay", "puzzling", "--step").lines if s["event"]["type"] == "InstanceReady"]
    causes = [(c["event"] or {}).get("type") or c["kind"] for c in ready[0]["causes"]]
    assert causes[0] == "InstanceStarting" and "BuildSucceeded" in causes and "DeployRequested" in causes
    assert platform.cli("check", "puzzling").json["same"]
    assert any(line["stream"] == story["stream"] for line in platform.cli("replay", "--all").lines)

    file = str(tmp_path / "history.jsonl")
    platform.cli("export", "--app", "puzzling", "-o", file)
    for words in (["replay", "puzzling"], ["why", "puzzling", "config"], ["diff", "puzzling", "v1"]):
        here, there = platform.cli(*words).json, platform.cli(*words, "--file", file).json
        assert {**here, "team": None} == there, "a file tells what the platform tells"


def test_a_rollback_restores_code_configuration_and_scale(platform: Platform, deploy: Deploy) -> None:
    deploy("undone", apps.web("old"))
    platform.cli("config", "set", "GREETING=first", "--app", "undone")  # v2
    platform.cli("config", "set", "GREETING=second", "--app", "undone")  # v3
    platform.cli("ps", "scale", "web=2", "--app", "undone")  # v4
    deploy("undone", apps.web("new"))  # v5
    assert platform.serving("undone")["greeting"] == "second"

    preview = platform.cli("rollback", "v2", "--diff", "--app", "undone").json
    assert preview["current"] == 5
    assert any("GREETING" in change["path"] for change in preview["changes"])
    platform.cli("rollback", "v2", "--app", "undone")

    now = platform.serving("undone")
    assert (now["text"], now["greeting"], now["release"]) == ("old", "first", 6)
    assert platform.get(platform.component("undone", "config"))["config"] == {"GREETING": "first"}
    assert len(platform.instances("undone")) == 1
    release = platform.cli("releases", "info", "6", "--app", "undone").json
    assert release["rollback_of"] == 2
    platform.cli("rollback", "--app", "undone")
    assert platform.serving("undone")["greeting"] == "second"


def test_several_process_types_and_a_release_step(platform: Platform) -> None:
    done = platform.cli("deploy", str(ROOT / "examples" / "two-processes"), "--app", "pair").json

    assert done["status"] == "succeeded"
    assert platform.visit("pair").text == "web of pair\n"
    kinds = {c["component"]: c["http"] for c in platform.get("/v1/teams/default/apps/pair/components")["items"]}
    assert kinds == {"web": True, "worker": False}
    worker = "/v1/teams/default/apps/pair/components/worker"
    until("the worker to run", lambda: [i for i in platform.get(f"{worker}/instances")["items"] if i["alive"]])

    def said(component: str, text: str) -> bool:
        lines = platform.cli("logs", "--app", "pair", "--component", component).lines
        return any(text in line["text"] for line in lines)

    until("the release step's line", lambda: said("web", "release step of pair"))
    until("the worker's line", lambda: said("worker", "worker started"))
    assert platform.visit("worker.pair").status == 404, "a process without a port gets no address"
    tasks = [e for e in platform.events(app="pair", type="InstanceStarted") if e["component"] == "web"]
    assert len(tasks) == 2, "expected the release step and one web instance"
