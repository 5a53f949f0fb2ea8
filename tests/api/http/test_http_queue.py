"""The task queue over HTTP: publish, claim, say how it went; topics, dead letters, another try."""

import pytest

from tests.api.http.conftest import House

T = "/v1/queue/mail"


async def test_a_task_from_publishing_to_its_end(house: House) -> None:
    sent = {"tasks": [{"id": "a", "payload": "hello ✓", "key": "k"}, {"id": "b", "key": "k"}]}
    published = await house.post(T + "/tasks", sent)
    assert [one["duplicate"] for one in published.json["published"]] == [False, False]
    again = await house.post(T + "/tasks", sent)
    assert [one["duplicate"] for one in again.json["published"]] == [True, True]
    claimed = await house.post(T + "/claims", {"consumer": "worker", "most": 5, "wait_seconds": 5})
    [claim] = claimed.json["claims"]
    assert (claim["task"], claim["payload"], claim["attempt"]) == ("a", "hello ✓", 1)
    listed = (await house.get(T + "/tasks")).json["items"]
    assert [(t["task"], t["status"]) for t in listed] == [("a", "claimed"), ("b", "blocked")]
    ref = {"task": "a", "claim": claim["claim"]}
    assert (await house.post(T + "/extend", {"claims": [ref], "seconds": 90})).json == {"accepted": [True]}
    assert (await house.post(T + "/ack", {"claims": [ref]})).json == {"accepted": [True]}
    stale = {"claims": [{"task": "a", "claim": "another"}]}
    assert (await house.post(T + "/ack", stale)).json == {"accepted": [False]}
    [topic] = [t for t in (await house.get("/v1/queue")).json["items"] if t["topic"] == "mail"]
    assert (topic["topic"], topic["ready"], topic["consumers"]) == ("mail", 1, 1)


async def test_what_fails_is_a_dead_letter_and_is_tried_again(house: House) -> None:
    await house.post(T + "/tasks", {"tasks": [{"id": "a", "max_attempts": 1, "team": "default"}]})
    [claim] = (await house.post(T + "/claims", {"consumer": "worker", "wait_seconds": 5})).json["claims"]
    word = {"claims": [{"task": "a", "claim": claim["claim"]}], "reason": "no such address"}
    assert (await house.post(T + "/nack", word)).json == {"became": ["dead"]}
    [letter] = (await house.get(T + "/dead?team=default")).json["items"]
    assert (letter["task"], letter["reason"], letter["attempts"]) == ("a", "no such address", 1)
    assert (await house.get(T + "/dead?team=other")).json["items"] == []
    assert (await house.post(T + "/retry", {"ids": ["a", "b"]})).json == {"retried": [True, False]}
    [claim] = (await house.post(T + "/claims", {"consumer": "worker", "wait_seconds": 5})).json["claims"]
    assert claim["attempt"] == 2


async def test_what_is_no_task_is_refused_with_the_reason(house: House) -> None:
    bad = await house.post("/v1/queue/No_Topic/tasks", {"tasks": [{"id": "a"}]})
    assert (bad.status, bad.json["code"]) == (422, "invalid")
    assert (await house.post(T + "/tasks", {"tasks": [{"id": "a/b"}]})).status == 422
    assert (await house.get(T)).json["ready"] == 0


@pytest.mark.parametrize("path", ["/v1/queue", T, T + "/tasks", T + "/dead"])
async def test_a_team_has_no_queue(house: House, path: str) -> None:
    """Topics are the platform's own: a team's token learns nothing of them."""
    token = await house.team("red")
    assert (await house.get(path, token=token)).status == 404
    assert (await house.post(T + "/tasks", {"tasks": [{"id": "a"}]}, token=token)).status == 404
