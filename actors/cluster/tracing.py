"""Spans from a request to the effects that it causes, where the environment names an exporter; else nothing is done.

`OTEL_TRACES_EXPORTER=console` or an OTLP endpoint turn it on in every process. Knows the library; not what is traced.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger("tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None


def configure(instance: str) -> None:
    """Trace this process, `instance` of the platform, if the environment says where to."""
    exporter = _exporter()
    if exporter is None:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "rayfold", "service.instance.id": instance})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    use(provider)


def use(provider: trace.TracerProvider | None) -> None:
    """Trace with `provider` from now on; None: not at all."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("rayfold")


def span(name: str, traceparent: str, **attributes: str) -> AbstractContextManager[str]:
    """A span below `traceparent` (empty: a new trace) while this lasts; gives the traceparent for what it causes."""
    return nullcontext(traceparent) if _tracer is None else _span(_tracer, name, traceparent, attributes)


@contextmanager
def _span(tracer: trace.Tracer, name: str, traceparent: str, attributes: Mapping[str, str]) -> Iterator[str]:
    above = _propagator.extract({"traceparent": traceparent}, Context()) if traceparent else Context()
    with tracer.start_as_current_span(name, context=above, attributes=attributes):
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        yield carrier.get("traceparent", traceparent)


def _exporter() -> "SpanExporter | None":
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "otlp" if any(map(os.environ.get, ENDPOINTS)) else "none")
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            log.warning("spans are not exported: install opentelemetry-exporter-otlp-proto-http")
            return None
        exporter: SpanExporter = OTLPSpanExporter()
        return exporter
    return None
