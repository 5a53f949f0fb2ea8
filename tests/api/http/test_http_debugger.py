"""The debugger over HTTP: what led to an event and what it did, who set a field, what changed in an app, what if."""

import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest

from events.replay.history import history, state_of
from events.replay.imported import HistoryFile
from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"


async def deployed(house: House, path: str = WEB, token: str | None = None) -> str:
    """An app with one deploy and two changes of its configuration; its component's stream."""
    given = {"token": token} if token else {}
    made = await house.deploy(path, **given)
    await house.ended(made.json["operation"])
    for value in ("red", "blue"):
        body = {"set": {"COLOUR": value}, "reason": f"let it be {value}"}
        changed = await house.call("PATCH", f"{path}/config", body, **given)
        await house.ended(changed.json["operation"])
    return str(made.json["stream"])


async def test_steps_tell_each_event_with_its_causes_and_changes(house: House) -> None:
    stream = await deployed(house)
    now = (await house.get(f"/v1/replay/{stream}")).json

    items, cursor = [], "1"
    while cursor:
        page = (await house.get(f"/v1/replay/{stream}/steps?states=true&limit=20&cursor={cursor}")).json
        items += page["items"]
        cursor = page["next_cursor"]

    assert [step["event"]["version"] for step in items] == list(range(1, now["version"] + 1))
    assert items[-1]["after"] == now["state"]
    assert all(one["after"] == other["before"] for one, other in pairwise(items))
    assert all(step["changes"] and step["causes"] for step in items)
    built = next(s for s in items if s["event"]["type"] == "ReleaseCreated")
    reached = [cause["event"]["stream"].partition("/")[0] for cause in built["causes"] if cause["event"]]
    assert "build" in reached, "the chain leads through the build's own stream"
    assert built["causes"][-1]["kind"] in ("operation", "command")
    plain = (await house.get(f"/v1/replay/{stream}/steps?limit=1")).json["items"][0]
    assert plain["before"] is None


async def test_a_field_is_explained_by_whoever_asked_for_it(house: House) -> None:
    stream = await deployed(house)

    found = (await house.get(f"/v1/why/{stream}/config.COLOUR")).json

    assert (found["field"], found["value"], found["times"]) == ("spec.config.COLOUR", "blue", 2)
    assert [(s["before"], s["after"]) for s in found["settings"]] == [("red", "blue"), (None, "red")]
    assert [s["by"]["asked_reason"] for s in found["settings"]] == ["let it be blue", "let it be red"]
    assert found["settings"][0]["by"]["asked_by"] == "admin"
    assert len((await house.get(f"/v1/why/{stream}/config?limit=1")).json["settings"]) == 1
    nothing = (await house.get("/v1/why/shop/web/config.NEVER")).json
    assert (nothing["present"], nothing["times"], nothing["settings"]) == (False, 0, [])


async def test_an_app_is_compared_in_one_answer(house: House) -> None:
    stream = await deployed(house)
    events = await history(house.log, stream)
    first = next(e for e in events if e.record.type == "OperationSucceeded")

    found = (await house.get(f"/v1/diff?app=shop&from={first.record.at}")).json

    assert stream in found["streams"]
    changes = {(c["area"], c["path"]): c for c in found["changes"]}
    colour = changes[("config", "spec.config.COLOUR")]
    assert (colour["before"], colour["after"], colour["by"]["asked_reason"]) == (None, "blue", "let it be blue")
    assert {"config", "releases", "instances"} <= {c["area"] for c in found["changes"]}
    same = (await house.get("/v1/diff?app=shop&from=now&to=now")).json
    assert same["changes"] == []


async def test_the_whole_platform_is_shown_as_it_was(house: House) -> None:
    stream = await deployed(house)

    now = (await house.get("/v1/replay")).json
    lines = (await house.get("/v1/replay?states=true")).text.splitlines()

    [web] = now["components"]
    assert (web["app"], web["status"], web["release"], web["ready"]) == ("shop", "active", 3, 1)
    assert [t["name"] for t in now["teams"]] == ["default"]
    states = {line["stream"]: line for line in map(json.loads, lines)}
    assert len(states) == now["streams"]
    assert states[stream]["state"] == (await house.get(f"/v1/replay/{stream}")).json["state"]
    before = (await house.get("/v1/replay?at=2001-01-01")).json
    assert (before["components"], before["events"]) == ([], 0)
    assert (await house.get("/v1/replay?at=2001-01-01&states=true")).text == ""


async def test_commands_are_tried_against_now_and_then_and_change_nothing(house: House) -> None:
    stream = await deployed(house)
    before = (await house.get(f"/v1/replay/{stream}")).json

    found = await house.post(
        f"/v1/whatif/{stream}", {"commands": [{"type": "ChangeSpec", "scale": 2}, {"type": "Restart"}]}
    )
    refused = await house.post(f"/v1/whatif/{stream}", {"commands": [{"type": "ChangeSpec", "scale": 2}], "version": 0})

    first, second = found.json["outcomes"]
    assert [e["type"] for e in first["events"]][:2] == ["OperationStarted", "ReleaseCreated"]
    assert any(e["follows"] and e["type"] == "InstanceStarting" for e in first["events"])
    assert second["refusal"]["code"] == "conflict"
    assert refused.json["outcomes"][0]["refusal"]["code"] == "not_found"
    assert (await house.get(f"/v1/replay/{stream}")).json == before


async def test_what_a_command_asks_for_is_compared_and_a_route_of_another_team_is_not_given(house: House) -> None:
    mill = await house.team("mill")
    theirs = "/v1/teams/mill/apps/grind/components/web"
    await deployed(house, theirs, token=mill)
    added = await house.call("POST", f"{theirs}/routes", {"host": "taken.example.com"}, token=mill)
    await house.ended(added.json["operation"])
    stream = await deployed(house)
    command = {"type": "ChangeSpec", "settings": {"memory_bytes": "1073741824"}}

    found = (await house.post(f"/v1/whatif/{stream}", {"commands": [command]})).json
    routed = {**command, "routes_add": [{"host": "free.example.com"}, {"host": "taken.example.com"}]}
    refused = (await house.post(f"/v1/whatif/{stream}", {"commands": [routed]})).json

    wanted = {(c["path"], c["before"], c["after"]) for c in found["outcomes"][0]["wanted"]}
    assert ("memory_bytes", 536870912, 1073741824) in wanted
    assert any("labels" in note for note in found["notes"])
    last = refused["outcomes"][0]["events"][-1]
    assert (last["type"], last["follows"], last["body"]["code"]) == ("OperationFailed", True, "conflict")
    assert last["body"]["reason"] == "taken.example.com/ is taken by another application"
    assert {c["after"] for c in refused["outcomes"][0]["wanted"] if c["path"] == "routes"} == {
        "free.example.com/", "taken.example.com/",
    }  # fmt: skip


async def test_a_stream_is_checked_in_processes_of_its_own(house: House) -> None:
    stream = await deployed(house)

    found = (await house.get(f"/v1/check/{stream}")).json

    assert (found["same"], found["error"], found["changes"]) == (True, "", [])
    assert found["events"] == len(await history(house.log, stream))


async def test_a_history_is_exported_as_a_file_that_opens_offline(house: House, tmp_path: Path) -> None:
    stream = await deployed(house)
    alone, app, everything = tmp_path / "alone", tmp_path / "app", tmp_path / "all"

    for path, file in ((f"/v1/export/{stream}", alone), ("/v1/export?app=shop", app), ("/v1/export", everything)):
        answer = await house.get(path)
        assert answer.headers["content-type"] == "application/jsonl"
        file.write_text(answer.text)

    opened = HistoryFile.open(alone)
    assert await history(opened, stream) == await history(house.log, stream)
    assert state_of(stream, await history(opened, stream)).state.name == "web"  # type: ignore[attr-defined]
    kinds = {line.stream.partition("/")[0] for line in HistoryFile.open(app).streams}
    assert {"app", "component", "build"} <= kinds
    assert {line.stream for line in HistoryFile.open(everything).streams} >= {"team/default", stream}


async def test_a_team_sees_its_own_of_it_and_secrets_are_never_shown(house: House) -> None:
    mill = await house.team("mill")
    theirs = "/v1/teams/mill/apps/grind/components/web"
    stream = await deployed(house, theirs, token=mill)
    await deployed(house)
    secret = await house.call("PATCH", f"{theirs}/config", {"secret": {"KEY": "hush-hush"}}, token=mill)
    assert secret.status in (200, 202), secret.text
    await house.ended(secret.json["operation"])

    whole = (await house.get("/v1/replay", token=mill)).json
    states = (await house.get("/v1/replay?states=true", token=mill)).text
    exported = (await house.get("/v1/export?app=grind", token=mill)).text

    assert {c["team"] for c in whole["components"]} == {"mill"}
    assert "team/default" not in states and "node/" not in states
    assert (await house.get("/v1/export", token=mill)).status == 422
    told = [states]
    for path in (f"/v1/replay/{stream}/steps?states=true", f"/v1/why/{stream}/config", "/v1/diff?app=grind&from=1h"):
        told.append((await house.get(path, token=mill)).text)
    assert all("••••" in text and "sealed:1:" not in text for text in told)
    assert not any("hush-hush" in text for text in (*told, exported))
    assert "sealed:1:mill:" in exported, "sealed it folds to the same on another machine"
    raws = [base64.b64decode(json.loads(line)["raw"]) for line in exported.splitlines()[1:]]
    assert not any(b"hush-hush" in raw for raw in raws)


async def test_what_cannot_be_told_says_why(house: House) -> None:
    stream = await deployed(house)
    for path, status in (
        (f"/v1/replay/{stream}/steps?cursor=9999", 422),
        (f"/v1/replay/{stream}/steps?cursor=x", 422),
        ("/v1/replay/component/0123456789abcdef/steps", 404),
        (f"/v1/replay/{stream}?offset=99999", 422),
        (f"/v1/replay/{stream}?offset=999999999999999999999", 422),
        (f"/v1/why/{stream}/scael", 422),
        ("/v1/why/team/nobody/name", 404),
        ("/v1/diff?app=nothing&from=1h", 404),
        ("/v1/diff?from=1h", 422),
        ("/v1/diff?app=shop&from=soon", 422),
        ("/v1/replay?at=soon", 422),
        ("/v1/check/team/nobody", 404),
        ("/v1/export/team/nobody", 404),
        ("/v1/export?app=nothing", 404),
        ("/v1/export?team=default", 422),
    ):
        answer = await house.get(path)
        assert answer.status == status, (path, answer.text[:300])
    assert "did you mean scale" in (await house.get(f"/v1/why/{stream}/scael")).json["detail"]
    restart: dict[str, object] = {"commands": [{"type": "Restart"}]}
    bad: list[dict[str, object]] = [{}, {"commands": []}, {"commands": [{"type": "No"}]}, {**restart, "at": "x"}]
    for body in (*bad, {**restart, "offset": 99_999}, {"commands": [{"type": "ChangeSpec", "scal": 1}]}):
        assert (await house.post(f"/v1/whatif/{stream}", body)).status == 422, body
