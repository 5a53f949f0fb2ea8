"""Live lists: events and log lines come once each, in order, and are resumed where they broke."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from actors.logs.line import LineRecord, operation_stream
from api.http.handlers import logs
from events.log.records import StoredEvent
from tests.api.http.conftest import ADMIN, House
from tests.api.http.world import PARTITIONS

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"


def bodies(events: list[dict[str, str]]) -> list[Any]:
    """The events of the log among what was sent."""
    return [json.loads(e["data"]) for e in events if "data" in e and "event" not in e]


async def everything(house: House) -> list[StoredEvent]:
    """What the log holds."""
    return [e for p in range(PARTITIONS) async for batch in house.log.read(p, 0) for e in batch]


async def test_a_stream_gives_the_past_says_that_it_caught_up_then_the_live(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    past = await house.collect("/v1/events?since=0.0.0.0", lambda found: found[-1].get("event") == "caught-up")
    assert {b["position"] for b in bodies(past)} == {str(e.position) for e in await everything(house)}
    cursor = past[-1]["id"]
    assert cursor.count(".") == PARTITIONS - 1

    following = asyncio.create_task(
        house.collect("/v1/events", lambda found: len(bodies(found)) > 2, Last_Event_ID=cursor)
    )
    await house.deploy(WEB)
    live = bodies(await following)
    assert live[0]["type"] == "OperationStarted"
    assert not {b["position"] for b in live} & {b["position"] for b in bodies(past)}


async def test_broken_anywhere_and_resumed_nothing_is_missed_or_repeated(house: House) -> None:
    await house.ended((await house.deploy(WEB, ref="two")).json["operation"])
    everyone = {str(e.position) for e in await everything(house)}
    seen: list[str] = []
    cursor = "0.0.0.0"
    while len(seen) < len(everyone):
        part = await house.collect("/v1/events", lambda found: len(found) >= 3, Last_Event_ID=cursor)
        seen += [b["position"] for b in bodies(part)]
        cursor = part[-1]["id"]
    assert len(seen) == len(set(seen))
    assert set(seen) == everyone


async def test_events_are_filtered_and_paged(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    await house.ended((await house.deploy(WEB.replace("shop", "mill"))).json["operation"])

    found: list[Any] = []
    cursor, caught_up = "0.0.0.0", False
    while not caught_up:
        page = (await house.get(f"/v1/events?app=shop&limit=7&since={cursor}")).json
        found += page["items"]
        cursor, caught_up = page["next_cursor"], page["caught_up"]
    wanted = [e for e in await everything(house) if b"shop" in bytes(e.record.body) or "shop" in e.record.stream]
    assert {e["app"] for e in found} == {"shop"}
    assert len({e["position"] for e in found}) == len(found) > len(wanted)
    assert [e["at"] for e in found] == sorted(e["at"] for e in found)
    released = (await house.get("/v1/events?type=ReleaseCreated")).json["items"]
    assert [e["body"]["release"]["number"] for e in released] == [1, 1]
    assert released[0]["component"] == "web"
    own = (await house.get(f"{WEB}/events?type=InstanceReady")).json["items"]
    assert len(own) == 1
    by_stream = (await house.get(f"/v1/events?stream={own[0]['stream']}")).json["items"]
    assert {e["stream"] for e in by_stream} == {own[0]["stream"]}
    after = (await house.get(f"/v1/events?since={own[0]['at']}&app=shop")).json["items"]
    assert after[0]["position"] == own[0]["position"]
    there = (await house.get(f"/v1/events?since={own[0]['position']}&stream={own[0]['stream']}")).json["items"]
    assert there[0]["position"] == own[0]["position"]
    for bad in ("since=yesterday", "since=9:1", "since=0:99999", "since=9999.0.0.0", "type=Nope", "stream=x"):
        assert (await house.get(f"/v1/events?{bad}")).status == 422, bad


async def test_an_operations_stream_ends_when_it_did(house: House) -> None:
    house.world.may_build.clear()
    accepted = (await house.deploy(WEB, ref="two")).json
    path = f"/v1/operations/{accepted['operation']}/events?min_position={accepted['position']}"
    following = asyncio.create_task(house.collect(path, lambda found: False))
    await house.until(f"{WEB}/builds", lambda page: bool(page["items"]))
    house.world.release_builds()
    found = await following

    assert found[-1]["event"] == "end"
    types = [b["type"] for b in bodies(found)]
    assert types[0] == "OperationStarted"
    assert {"BuildSucceeded", "ReleaseCreated", "RolloutSucceeded", "SiblingEnded"} <= set(types)
    assert types[-1] == "OperationSucceeded"
    late = await house.collect(path, lambda found: False)
    assert [b["position"] for b in bodies(late)] == [b["position"] for b in bodies(found)]
    last = [e["id"] for e in found if "id" in e][-1]
    assert bodies(await house.collect(path, lambda found: False, Last_Event_ID=last)) == []
    page = (await house.get(path)).json
    assert page["items"][0]["type"] == "OperationStarted"


async def test_a_quiet_stream_beats_and_its_beat_can_be_resumed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.feed.SILENCE_SECONDS", 0.1)
    beats = await house.collect("/v1/events", lambda found: sum("comment" in e for e in found) >= 2)

    assert beats[-1]["comment"] == "heartbeat"
    tails = [await house.log.tail(p) for p in range(PARTITIONS)]
    assert beats[-1]["id"] == ".".join(map(str, tails))


async def _say(house: House, stream: str, texts: list[str], after: int) -> None:
    lines = [LineRecord(at=1_700_000_000_000_000 + after + i, text=text) for i, text in enumerate(texts)]
    await house.logs.append(stream, "i1", lines, after=after, upto=after + len(texts))


async def test_log_lines_are_paged_searched_followed_and_resumed(house: House) -> None:
    made = await house.deploy(WEB)
    await house.ended(made.json["operation"])
    service = made.json["service_id"]
    await _say(house, service, ["one", "two", "three\x1b[31m"], 0)

    page = (await house.get(f"{WEB}/logs?n=2")).json
    assert [(line["number"], line["text"]) for line in page["items"]] == [(2, "two"), (3, "three\\x1b[31m")]
    assert page["next"] == 4
    assert [line["text"] for line in (await house.get(f"{WEB}/logs?grep=^t.o")).json["items"]] == ["two"]
    assert [line["number"] for line in (await house.get(f"{WEB}/logs?from=2&n=1")).json["items"]] == [2]
    assert (await house.get(f"{WEB}/logs?since=2030-01-01")).json["items"] == []
    for bad in ("grep=(", "since=soon", "n=-1", "source=nobody"):
        assert (await house.get(f"{WEB}/logs?{bad}")).status == 422, bad

    following = asyncio.create_task(house.collect(f"{WEB}/logs?from=3&follow=1", lambda f: len(bodies(f)) >= 3))
    await _say(house, service, ["four", "five"], 3)
    found = await following
    assert [b["number"] for b in bodies(found)] == [3, 4, 5]
    assert [e["id"] for e in found if "data" in e] == [str(b["number"]) for b in bodies(found)]
    resumed = await house.collect(f"{WEB}/logs?follow=1", lambda f: len(bodies(f)) >= 2, Last_Event_ID="3")
    assert [b["text"] for b in bodies(resumed)] == ["four", "five"]


async def test_lines_are_asked_for_by_everything_they_say(house: House) -> None:
    made = await house.deploy(WEB)
    await house.ended(made.json["operation"])
    service = made.json["service_id"]
    told = '{"level":"warn","user":{"id":7},"msg":"slow"}'
    said = ["INFO all is well", "ERROR disk full", told, "Error: last one", "x"]
    await _say(house, service, said, 0)

    async def numbers(query: str) -> list[int]:
        found = await house.get(f"{WEB}/logs?{query}")
        assert found.status == 200, found.text
        return [line["number"] for line in found.json["items"]]

    assert await numbers("level=error") == [2, 4]
    assert await numbers("level=warning&n=2") == [3, 4]
    assert await numbers("word=DISK") == [2]
    assert await numbers("word=disk%20full") == [2]
    assert await numbers("field=user.id=7,msg=slow") == [3]
    assert await numbers("field=user.id=8") == []
    assert await numbers("grep=error&ignore_case=1") == [2, 4]
    assert await numbers("around=3&n=1") == [2, 3, 4]
    assert await numbers("instance=i1") == [] and await numbers("instance=none-such") == []
    assert await numbers("until=2023-11-14T22:13:20.000002Z") == [1, 2]
    page = (await house.get(f"{WEB}/logs?from=1&n=2")).json
    assert (page["complete"], page["looked_from"], page["next"]) == (False, 1, 3)
    assert (await house.get(f"{WEB}/logs?from=3&n=9")).json["complete"]
    for bad in ("level=loud", "field=user", "around=0", r"grep=(a)\1", "until=soon"):
        assert (await house.get(f"{WEB}/logs?{bad}")).status == 422, bad

    router = [f"GET /p {status} {took}ms 12B" for status, took in ((200, 3), (200, 30), (503, 300))]
    lines = [LineRecord(at=1, text=text, source="router") for text in router]
    await house.logs.append(service, "gateway", lines, after=0, upto=3)
    counted = (await house.get(f"{WEB}/logs/stats")).json
    assert (counted["lines"], counted["levels"]["error"], counted["levels"]["warning"]) == (8, 2, 1)
    assert (counted["requests"], counted["statuses"]["2xx"], counted["statuses"]["5xx"]) == (3, 2, 1)
    assert counted["latency_ms"] == 111 and counted["latency_le_ms"]["50"] == 2 and counted["complete"]


async def test_a_strangers_lines_are_not_there(house: House) -> None:
    made = await house.deploy(WEB)
    await house.ended(made.json["operation"])
    await _say(house, made.json["service_id"], ["secret of the house"], 0)
    stranger = await house.team("stranger")
    for path in (f"{WEB}/logs", f"{WEB}/logs?follow=1", f"{WEB}/logs/stats"):
        assert (await house.get(path, token=stranger)).status == 404
    try:
        async with house.session.ws_connect(house.url + f"{WEB}/logs", protocols=("rayfold", f"bearer.{stranger}")):
            raise AssertionError("expected no socket for a stranger")
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == 404


async def test_a_socket_is_never_further_ahead_than_its_client_allows(house: House) -> None:
    made = await house.deploy(WEB)
    await house.ended(made.json["operation"])
    service = made.json["service_id"]
    await _say(house, service, [f"line {n}" for n in range(1, 501)], 0)
    url = house.url + f"{WEB}/logs?from=1&window=10"
    seen: list[int] = []
    async with asyncio.timeout(30), house.session.ws_connect(url, protocols=("rayfold", f"bearer.{ADMIN}")) as slow:
        async with house.session.ws_connect(url, protocols=("rayfold", f"bearer.{ADMIN}")) as brisk:
            while len(seen) < 500:
                number = (await brisk.receive_json())["number"]
                seen.append(number)
                await brisk.send_json({"ack": number})
        assert seen == list(range(1, 501))
        late = [(await slow.receive_json())["number"] for _ in range(10)]
        with pytest.raises(TimeoutError):
            await slow.receive(timeout=0.2)
        await slow.send_json({"ack": 4})
        late += [(await slow.receive_json())["number"] for _ in range(4)]
        assert late == list(range(1, 15))
    await _say(house, service, ["last"], 500)
    async with house.session.ws_connect(
        house.url + f"{WEB}/logs?from=501", headers={"Authorization": f"Bearer {ADMIN}"}
    ) as resumed:
        assert (await resumed.receive_json(timeout=20))["text"] == "last"


async def test_a_page_whose_client_has_gone_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.deploy(WEB)
    await house.ended(made.json["operation"])
    began, ended = asyncio.Event(), asyncio.Event()

    async def never(query: object) -> object:
        began.set()
        try:
            return await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(house.logs, "query", never)
    asking = asyncio.create_task(house.get(f"{WEB}/logs"))
    async with asyncio.timeout(20):
        await began.wait()
        asking.cancel()
        await ended.wait()


async def test_a_builds_output_ends(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    build = (await house.get(f"{WEB}/builds")).json["items"][0]["build"]
    await _say(house, f"build/{build}", ["cloning", "installing"], 0)
    await house.logs.close_stream(f"build/{build}", "succeeded")

    page = (await house.get(f"{WEB}/builds/{build}/output")).json
    assert [line["text"] for line in page["items"]] == ["cloning", "installing"]
    found = await house.collect(f"{WEB}/builds/{build}/output?follow=1", lambda f: False)
    assert [b["text"] for b in bodies(found)] == ["cloning", "installing"]
    assert found[-1]["event"] == "end"


async def test_an_operations_output_ends_with_its_stream_or_with_itself(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = (await house.deploy(WEB)).json["operation"]
    await house.ended(operation)
    row = (await house.get(f"/v1/operations/{operation}")).json
    stream = operation_stream(row["stream"].removeprefix("component/"), operation)
    await _say(house, stream, ["deploy has begun", "instance i is ready"], 0)
    page = (await house.get(f"/v1/operations/{operation}/output")).json
    assert [line["text"] for line in page["items"]] == ["deploy has begun", "instance i is ready"]

    monkeypatch.setattr(logs, "SILENCE_SECONDS", 0.2)
    unended = await house.collect(f"/v1/operations/{operation}/output?follow=1", lambda f: False)
    assert unended[-1]["event"] == "end", "whoever was to end it has died, and it is over all the same"
    await house.logs.close_stream(stream, "succeeded")
    found = await house.collect(f"/v1/operations/{operation}/output?follow=1", lambda f: False)
    assert [b["text"] for b in bodies(found)] == ["deploy has begun", "instance i is ready"]
    assert found[-1]["event"] == "end"
    assert (await house.get("/v1/operations/none-such/output")).status == 404


async def test_open_streams_do_not_hold_up_the_end_of_the_server(house: House) -> None:
    began = asyncio.Event()

    def note(found: list[dict[str, str]]) -> bool:
        began.set()
        return False

    following = asyncio.create_task(house.collect("/v1/events", note))
    await began.wait()
    async with asyncio.timeout(3):
        await house.stop_server()
        await asyncio.gather(following, return_exceptions=True)
