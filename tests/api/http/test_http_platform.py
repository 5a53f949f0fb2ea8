"""The platform's own answers, and that the OpenAPI document says what is served, whatever is asked."""

import asyncio
import warnings
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from actors.logs.measure import Counts
from actors.logs.totals import StoreTotals
from api.http.openapi import document
from api.http.routes import ROUTES
from events.log.records import partition_of
from events.model.base import Envelope
from events.model.parked import Park, ParkedState, ParkedStatus, parked_stream
from events.model.registry import encode_command
from projections.database import Database
from projections.schema import PARKED, Row
from tests.api.http.conftest import ADMIN, House
from tests.api.http.world import PARTITIONS
from tests.events.log.flipped import flip

pytestmark = pytest.mark.servers

SKIPPED = {"getLogs", "getBuildOutput", "getOperationOutput"}  # follow=1 streams for ever


async def test_health_readiness_status_and_measures(house: House) -> None:
    assert (await house.get("/healthz", token=None)).json["status"] == "ok"
    assert (await house.get("/readyz", token=None)).status == 200
    house.parts.ok = False
    away = await house.session.get(house.url + "/readyz")
    assert away.status == 503
    assert "away" not in await away.text()
    status = (await house.get("/v1/status")).json
    assert (status["ready"], status["gateway_port"]) == (False, 8080)
    assert {check["name"]: check["ok"] for check in status["checks"]}["event log"] is True
    text = (await house.get("/metrics")).text
    assert 'rayfold_api_requests_total{operation="createTeam",status="201"} 1.0' in text


async def test_how_the_log_is_kept_and_archiving_now(house: House) -> None:
    found = (await house.get("/v1/log")).json
    assert (found["space"]["share"], found["space"]["refusing"], found["archive"]) == (0.5, False, "/archive")
    [partition] = found["partitions"]
    assert (partition["tail"], partition["archived_through"], partition["owner"]) == (900, 799, "supervisor-0")
    made = (await house.post("/v1/log/archive", {"all": True})).json["segments"]
    assert [segment["partition"] for segment in made] == [0, 1, 2, 3]
    assert (await house.post("/v1/log/archive", {"partition": 2})).json["segments"][0]["end"] == 800
    assert house.parts.archived == [((0, 1, 2, 3), True), ((2,), False)]
    assert (await house.post("/v1/log/archive", {"partition": 4})).status == 404
    text = (await house.get("/metrics")).text
    assert 'rayfold_log_archived_through{partition="0"} 799.0' in text and "rayfold_log_quota_used_share 0.5" in text


async def test_pools_and_projections(house: House) -> None:
    [builder, *_] = (await house.get("/v1/pools")).json["items"]
    assert (builder["name"], builder["size"], builder["running"], builder["most"]) == ("builder", 1, 1, 8)
    found = (await house.get("/v1/projections")).json["items"]
    assert {p["name"] for p in found} >= {"teams", "operations"}
    assert (await house.post("/v1/projections/teams/rebuild")).status == 202
    assert (await house.post("/v1/projections/nothing/rebuild")).status == 404
    assert house.parts.rebuilt == ["teams", "nothing"]


async def test_the_document_names_every_route(house: House) -> None:
    served = (await house.get("/openapi.json", token=None)).json
    assert served["openapi"] == "3.1.0"
    named = {o["operationId"] for path in served["paths"].values() for o in path.values()}
    assert named == {route.id for route in ROUTES}
    assert len(named) == len(ROUTES)


def _checked(house: House, operation: Any) -> None:
    """Bounded examples, good and bad, for one operation: the answers must be the document's, and never a 500."""
    headers = {"Authorization": f"Bearer {ADMIN}"}

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @schemathesis_given(operation)
    def check(case: Any) -> None:
        response = case.call(base_url=house.url, headers=headers, timeout=20)
        assert response.status_code in (503, *range(200, 500)), response.text
        case.validate_response(
            response,
            checks=[status_code_conformance, content_type_conformance, response_schema_conformance],
        )

    check()


def schemathesis_given(operation: Any) -> Any:
    """Cases of an operation, those that the schema allows and those that it does not."""
    from hypothesis import given
    from hypothesis import strategies as st

    positive = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    return given(case=st.one_of(positive, negative))


@pytest.mark.timeout(240)
async def test_whatever_is_asked_the_answer_is_the_documents(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.reads.WAIT_SECONDS", 0.05)
    monkeypatch.setattr("api.http.reads.FRESH_SECONDS", 0.05)
    monkeypatch.setattr("api.http.handlers.queue.MOST_WAIT_SECONDS", 0.05)
    source = {"kind": "git", "url": "https://example.com/shop.git"}
    made = await house.post("/v1/teams/default/apps/shop/components/web/deploys", {"source": source})
    await house.ended(made.json["operation"])
    loaded = schemathesis.openapi.from_dict(dict(document("0.1.0")))
    for found in loaded.get_all_operations():
        operation = found.ok()
        if operation.definition.raw["operationId"] in SKIPPED:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await asyncio.to_thread(_checked, house, operation)


async def test_a_pool_is_scaled_by_a_decision_that_the_log_keeps_with_its_reason(house: House) -> None:
    scaled = await house.call("PATCH", "/v1/pools/builder", {"size": 3, "reason": "a release night"})
    assert (scaled.status, scaled.json["size"]) == (202, 3)
    auto = await house.call(
        "PATCH", "/v1/pools/builder", {"auto": {"least": 1, "most": 4}, "reason": "follow the queue"}
    )
    assert (auto.status, auto.json["auto_least"], auto.json["auto_most"]) == (202, 1, 4)

    events = (await house.get("/v1/events?stream=pool/builder")).json["items"]
    assert [(e["type"], e["actor"], e["reason"]) for e in events] == [
        ("PoolScaled", "admin", "a release night"),
        ("PoolAutoscaleSet", "admin", "follow the queue"),
    ]


@pytest.mark.parametrize(
    ("pool", "body", "status", "words"),
    [
        ("nothing", {"size": 3}, 404, "no pool nothing"),
        ("builder", {"size": 9}, 422, "at most 8"),
        ("builder", {"size": 0}, 422, "size"),
        ("builder", {}, 422, "neither"),
        ("builder", {"size": 1, "auto": {"least": 1, "most": 2}}, 422, "both"),
        ("builder", {"auto": {"least": 3, "most": 2}}, 422, "at most MAX"),
        ("node", {"size": 1}, 409, "on each machine"),
        ("gateway", {"size": 3}, 422, "at most 2, found 3: one is enough"),
        ("gateway", {"auto": {"least": 1, "most": 3}}, 422, "no measure"),
    ],
)
async def test_a_size_that_cannot_be_is_refused_with_what_was_expected(
    house: House, pool: str, body: dict[str, object], status: int, words: str
) -> None:
    answer = await house.call("PATCH", f"/v1/pools/{pool}", body)
    assert answer.status == status
    assert words in answer.text


async def test_what_is_parked_is_told_and_a_person_decides_with_a_reason(house: House) -> None:
    node = ParkedState(
        status=ParkedStatus.PARKED, stream="node/n1", handler="progress", version=3, tries=3, error="KeyError: 'x'",
        parked_at=1_700_000_000_000_000,
    )  # fmt: skip
    park = Park(stream=node.stream, handler="progress", version=3, tries=3, error=node.error)
    for stream in ("node/n1", "node/n2"):
        about = msgspec.structs.replace(park, stream=stream)
        envelope = Envelope(stream=parked_stream(stream), command=encode_command(about), command_id=f"park-{stream}")
        [reply] = await house.world.supervisor.submit([envelope])
        assert not reply.error and reply.refusal is None
    house.parts.set_aside = [node, msgspec.structs.replace(node, stream="node/n2")]

    [one, _] = (await house.get("/v1/parked")).json["items"]
    assert (one["by"], one["stream"], one["tries"], one["error"]) == ("supervisor", "node/n1", 3, "KeyError: 'x'")
    assert len((await house.get("/v1/parked/node/n2")).json["items"]) == 1
    assert (await house.get("/v1/parked/node/n3")).status == 404

    for what, stream in (("retry", "node/n1"), ("skip", "node/n2")):
        answer = await house.post(f"/v1/parked/{what}", {"stream": stream, "reason": "mended"})
        assert answer.status == 202, answer
        events = (await house.get(f"/v1/events?stream=parked/{stream}")).json["items"]
        assert (events[-1]["type"], events[-1]["reason"]) == (
            {"retry": "ParkedRetried", "skip": "ParkedSkipped"}[what],
            "mended",
        )
    assert (await house.post("/v1/parked/retry", {"stream": "node/n3"})).status == 404
    assert (await house.post("/v1/parked/retry", {"stream": "x"})).status == 422


async def test_what_a_read_model_has_set_aside_is_folded_on_request_and_never_left_out(house: House) -> None:
    parked: Row = {
        "projection": "nodes", "stream": "node/n4", "partition": 0, "offset": 7, "event_id": "e",
        "event_type": "NodeJoined", "error": "KeyError: 'x'", "attempts": 3, "behind": 2,
        "parked_at": 1_700_000_000_000_000,
    }  # fmt: skip
    database = Database(f"sqlite:///{house.data / 'sql' / 'rayfold.db'}")
    await asyncio.to_thread(database.transact, lambda connection: connection.execute(PARKED.insert(), parked))
    database.close()
    about = {"stream": "node/n4", "reason": "mended"}
    for told, words in (("KeyError: 'y'", "KeyError: 'y'"), (None, "no projector")):
        house.parts.retry_answer = told
        refused = await house.post("/v1/parked/retry", about)
        assert refused.status == 409 and words in refused.text
    house.parts.retry_answer = ""
    answer = await house.post("/v1/parked/retry", about)
    assert (answer.status, answer.json["position"]) == (202, None)
    assert house.parts.retried == [("nodes", "node/n4")] * 3
    refused = await house.post("/v1/parked/skip", about)
    assert refused.status == 409 and "leaves no event out" in refused.text


async def test_metrics_tell_of_pools_and_their_actors(house: House) -> None:
    text = (await house.get("/metrics")).text
    assert 'rayfold_pool_size{pool="builder"} 1.0' in text
    assert 'rayfold_actor_ready{actor="builder-0",pool="builder"} 1.0' in text


async def test_metrics_tell_what_lines_say_by_component(house: House) -> None:
    web = "/v1/teams/default/apps/shop/components/web"
    made = await house.deploy(web)
    await house.ended(made.json["operation"])
    counts = Counts(lines=3, bytes=30, lost=2, sources={"app": 1, "router": 2}, latency_ms=120.0)
    counts.levels[5], counts.statuses[4], counts.latencies[1], counts.latencies[11] = 1, 1, 1, 1
    totals = StoreTotals(streams={made.json["service_id"]: counts, "others": Counts(lines=1, sources={"build": 1})})

    async def told() -> StoreTotals:
        return totals

    house.logs.totals = told  # type: ignore[method-assign]
    text = (await house.get("/metrics")).text
    owner = 'app="shop",component="web"'
    for line in (
        f'rayfold_lines_total{{{owner},source="router",team="default"}} 2.0',
        f'rayfold_lines_lost_total{{{owner},team="default"}} 2.0',
        f'rayfold_line_levels_total{{{owner},level="error",team="default"}} 1.0',
        f'rayfold_gateway_requests_total{{{owner},status="5xx",team="default"}} 1.0',
        f'rayfold_gateway_request_seconds_bucket{{{owner},le="0.01",team="default"}} 1.0',
        f'rayfold_gateway_request_seconds_count{{{owner},team="default"}} 2.0',
        f'rayfold_gateway_request_seconds_sum{{{owner},team="default"}} 0.12',
        'rayfold_lines_total{app="",component="",source="build",team=""} 1.0',
    ):
        assert line in text, text


async def test_what_is_damaged_is_answered_at_once_and_named_until_it_is_mended(house: House) -> None:
    await house.team("shop")
    partition = partition_of("team/shop", PARTITIONS)
    base = min(house.store.partitions[partition].batches)
    flip(house.store, partition, base)
    assert (await house.get("/v1/status")).json["ready"], "nobody has met it yet"

    asked = await house.get("/v1/events?stream=team/shop")
    assert (asked.status, asked.json["code"]) == (500, "log_damaged")
    assert f"batch at {partition}:{base} is corrupt" in asked.json["detail"]
    assert "rayfold log verify" in asked.json["hint"] and "retry-after" not in asked.headers

    status = (await house.get("/v1/status")).json
    [check] = [check for check in status["checks"] if check["name"] == "event log"]
    assert not status["ready"] and not check["ok"] and check["waiting"], "what is whole is served meanwhile"
    assert f"batch at {partition}:{base} is corrupt" in check["found"] and "rayfold log verify" in check["fix"]
    flip(house.store, partition, base)
    assert (await house.get("/v1/status")).json["ready"]


async def test_an_operation_is_followed_past_damage_elsewhere_and_not_past_its_own(house: House) -> None:
    path = "/v1/teams/default/apps/shop/components/web"
    made = await house.deploy(path)
    await house.ended(made.json["operation"])
    own = partition_of(made.json["service_id"], PARTITIONS)
    follow = f"/v1/operations/{made.json['operation']}/events"
    [elsewhere] = [p for p in range(PARTITIONS) if p != own and house.store.partitions[p].batches][:1]
    flip(house.store, elsewhere, min(house.store.partitions[elsewhere].batches))
    past = await house.collect(follow, lambda found: False)
    assert past[0]["event"] == "damaged" and f"batch at {elsewhere}:" in past[0]["data"]
    assert past[-1]["event"] == "end"

    flip(house.store, own, min(house.store.partitions[own].batches))
    problem = (await house.collect(follow, lambda found: False))[-1]
    assert problem["event"] == "problem" and '"code":"log_damaged"' in problem["data"]
