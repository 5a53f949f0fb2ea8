"""A request's spans hang together, from the door to the effects that it causes, and the events name the trace."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.cluster import tracing
from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"
TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{ABOVE}-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


async def test_from_the_request_to_the_effect(house: House, spans: InMemorySpanExporter) -> None:
    deployed = await house.deploy(WEB, traceparent=PARENT)
    assert deployed.status == 202
    await house.ended(deployed.json["operation"])

    mine = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    by_id = {span.context.span_id: span for span in mine}
    [request] = [span for span in mine if span.name == "deploy"]
    assert request.parent is not None and f"{request.parent.span_id:016x}" == ABOVE
    decided = [span for span in mine if span.name == "decide" and span.parent and span.parent.span_id in by_id]
    assert decided
    effects = {span.name for span in mine if span.name.startswith("effect ")}
    assert {"effect await-build", "effect start"} <= effects
    for span in mine:
        if span.name.startswith("effect "):
            assert span.parent is not None and by_id[span.parent.span_id].name == "decide"
    events = (await house.get("/v1/events?type=InstanceStarting")).json["items"]
    assert events and all(TRACE in event["traceparent"] for event in events)


async def test_without_an_exporter_the_caller_s_own_trace_is_what_events_name(house: House) -> None:
    assert (await house.call("POST", "/v1/teams/default/apps", {"name": "plain"}, traceparent=PARENT)).status == 201
    [created] = (await house.get("/v1/events?stream=app/default.plain")).json["items"]
    assert created["traceparent"] == PARENT
