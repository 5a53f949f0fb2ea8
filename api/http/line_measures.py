"""What log lines say, for Prometheus: lines, bytes, levels, losses, and the gateway's requests, by component.

Counters begin anew when a log server does, as Prometheus expects of counters. Knows the log servers' counts only.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.logs.measure import LATENCY_SECONDS, LEVELS, Counts
from actors.logs.rules import Names
from actors.logs.totals import OTHERS, StoreTotals

_OWNER = ("team", "app", "component")
_STORE = {
    "duplicates": "Batches sent again, stored once.",
    "refused": "Batches refused.",
    "storage_failures": "Commits that the disk refused.",
    "torn_bytes": "Bytes of torn tails, cut off after a crash.",
    "retention_lines": "Lines dropped for their age or number.",
}


class LineMeasures(Collector):
    """Shows what it was told last."""

    def __init__(self) -> None:
        self._totals = StoreTotals()
        self._names: Names = {}

    def show(self, totals: StoreTotals, names: Names) -> None:
        """From now on tell these."""
        self._totals, self._names = totals, names

    def collect(self) -> Iterator[Metric]:
        """As the client library asks it."""
        owners = [(self._owner(stream), counts) for stream, counts in sorted(self._totals.streams.items())]
        yield _counter("lines", "Lines stored.", ("source",), [
            ((*owner, source), count) for owner, counts in owners for source, count in counts.sources.items()
        ])  # fmt: skip
        yield _counter("line_bytes", "Bytes of their texts.", (), [(owner, counts.bytes) for owner, counts in owners])
        yield _counter("lines_lost", "Numbers that gaps stand for.", (), [(owner, c.lost) for owner, c in owners])
        yield _counter("line_levels", "Lines that name a level.", ("level",), [
            ((*owner, level), count)
            for owner, counts in owners
            for level, count in zip(LEVELS, counts.levels, strict=True)
            if level and count
        ])  # fmt: skip
        yield _counter("gateway_requests", "Requests, by class of status.", ("status",), [
            ((*owner, f"{place}xx"), count)
            for owner, counts in owners
            for place, count in enumerate(counts.statuses, 1)
            if count
        ])  # fmt: skip
        yield _latencies(owners)
        yield from self._store()

    def _store(self) -> Iterator[Metric]:
        totals = self._totals
        for name, words in _STORE.items():
            yield CounterMetricFamily(f"rayfold_lines_store_{name}", words, value=getattr(totals.store, name))
        for name, count in (("sealed", totals.sealed), ("archived", totals.archived), ("expired", totals.expired)):
            yield CounterMetricFamily(f"rayfold_lines_segments_{name}", f"Segments {name}.", value=count)
        held = CounterMetricFamily("rayfold_lines_held_back", "Batches of a team that came too fast.", labels=("team",))
        for team, count in sorted(totals.held_back.items()):
            held.add_metric((team,), count)
        yield held
        yield GaugeMetricFamily("rayfold_lines_tails", "Open tails.", value=totals.tails)
        pending = totals.store.pending_bytes
        yield GaugeMetricFamily("rayfold_lines_pending_bytes", "Taken, not yet durable.", value=pending)

    def _owner(self, stream: str) -> tuple[str, str, str]:
        """A component that is not known yet goes by its id; what is no component's by no name at all."""
        return self._names.get(stream, ("", "", "" if stream == OTHERS else stream))


def _counter(name: str, words: str, labels: tuple[str, ...], rows: list[tuple[tuple[str, ...], int]]) -> Metric:
    family = CounterMetricFamily(f"rayfold_{name}", words, labels=(*_OWNER, *labels))
    for row, count in rows:
        family.add_metric(row, count)
    return family


def _latencies(owners: list[tuple[tuple[str, str, str], Counts]]) -> Metric:
    family = HistogramMetricFamily("rayfold_gateway_request_seconds", "Time to the answer's end.", labels=_OWNER)
    bounds = [*map(str, LATENCY_SECONDS), "+Inf"]
    for owner, counts in owners:
        if any(counts.latencies):
            below = [sum(counts.latencies[: place + 1]) for place in range(len(bounds))]
            family.add_metric(owner, list(zip(bounds, below, strict=True)), sum_value=counts.latency_ms / 1000)
    return family
