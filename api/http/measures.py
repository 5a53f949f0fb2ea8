"""What the HTTP interface measures of itself, for Prometheus.

No label carries a user's name but those of `line_measures`, which are by component.
"""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from actors.archiver import LogReport
from actors.cluster.sizes import PoolReport
from actors.logs.rules import Names
from actors.logs.totals import StoreTotals
from api.http.line_measures import LineMeasures

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds

_LOG_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "quota_bytes": ("etcd's quota.", ()),
    "quota_used_share": ("Share of it in use on the fullest member; appends are refused from 0.8 on.", ()),
    "file_bytes": ("The largest member's file.", ()),
    "refusing_appends": ("1 while appends are refused.", ()),
    "last_compaction_timestamp_seconds": ("When the archiver last had etcd compacted; 0 for never.", ()),
    "hot_bytes": ("Stored batches in etcd.", ("partition",)),
    "archived_through": ("The last offset that is in the archive; -1 for none.", ("partition",)),
    "segments": ("Segments in the archive.", ("partition",)),
    "tail": ("The offset of the next event.", ("partition",)),
}


_POOL_GAUGES = {
    "size": "Actors that are wanted.",
    "running": "Actors that are ready.",
    "work": "What there is to do, in actors.",
    "moving": "Partitions on their way between actors.",
}


class Metrics:
    """One registry for each app, so that two in one process do not share counts."""

    def __init__(self, clients: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._lines = LineMeasures()
        self.registry.register(self._lines)
        # To find a label's counter takes longer than to count: each is found once.
        self._answered: dict[tuple[str, int], Counter] = {}
        self._times: dict[str, Histogram] = {}
        self._requests = Counter(
            "rayfold_api_requests", "Requests answered.", ["operation", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "rayfold_api_request_seconds",
            "Time to the end of the answer; live streams are not counted.",
            ["operation"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        commands = Counter(
            "rayfold_api_commands", "Commands submitted, by outcome.", ["outcome"], registry=self.registry
        )
        self.outcomes = {outcome: commands.labels(outcome=outcome) for outcome in ("accepted", "refused", "error")}
        self.uploaded = Counter("rayfold_api_upload_bytes", "Source bytes received.", registry=self.registry)
        self.streams = Gauge("rayfold_api_streams", "Open server-sent event streams.", registry=self.registry)
        followers = Gauge("rayfold_api_log_followers", "Streams that follow the event log.", registry=self.registry)
        followers.set_function(lambda: float(clients()))

        pool = ("pool",)
        self._pools = {
            name: Gauge(f"rayfold_pool_{name}", words, pool, registry=self.registry)
            for name, words in _POOL_GAUGES.items()
        }
        self._actors: dict[str, Gauge] = {}
        self._log = {
            name: Gauge(f"rayfold_log_{name}", words, labels, registry=self.registry)
            for name, (words, labels) in _LOG_GAUGES.items()
        }

    def answered(self, operation: str, status: int, seconds: float | None) -> None:
        """A request ended with `status`; `seconds` None for a live stream, whose time says nothing."""
        counter = self._answered.get((operation, status))
        if counter is None:
            counter = self._requests.labels(operation=operation, status=str(status))
            self._answered[operation, status] = counter
        counter.inc()
        if seconds is None:
            return
        times = self._times.get(operation)
        if times is None:
            times = self._times[operation] = self._seconds.labels(operation=operation)
        times.observe(seconds)

    def show_lines(self, totals: StoreTotals, names: Names) -> None:
        """What log lines say, as the log servers last counted."""
        self._lines.show(totals, names)

    def show_log(self, report: LogReport) -> None:
        """How the log is kept, as its archiver last said."""
        status, gauges = report.status, self._log
        gauges["quota_bytes"].set(status.space.quota_bytes)
        gauges["quota_used_share"].set(status.space.share)
        gauges["file_bytes"].set(status.space.file)
        gauges["refusing_appends"].set(status.refusing)
        gauges["last_compaction_timestamp_seconds"].set(status.last_compacted_at / 1e6)
        for use in report.uses:
            partition = str(use.partition)
            gauges["hot_bytes"].labels(partition).set(use.hot_bytes)
            gauges["archived_through"].labels(partition).set(use.first_hot - 1)
            gauges["segments"].labels(partition).set(use.segments)
            gauges["tail"].labels(partition).set(use.tail)

    def show_pools(self, reports: Sequence[PoolReport]) -> None:
        """How large the pools are, and what each actor measures of itself, as the reconciler last heard it."""
        for gauge in self._actors.values():
            gauge.clear()  # an actor that is gone must not be told of for ever
        for report in reports:
            self._pools["size"].labels(report.name).set(report.size)
            self._pools["running"].labels(report.name).set(sum(actor.ready for actor in report.actors))
            self._pools["work"].labels(report.name).set(report.work)
            self._pools["moving"].labels(report.name).set(report.moving)
            for actor in report.actors:
                for name, value in {**actor.gauges, "ready": float(actor.ready)}.items():
                    self._actor(name).labels(report.name, actor.name).set(value)

    def _actor(self, name: str) -> Gauge:
        gauge = self._actors.get(name)
        if gauge is None:
            words = f"What actors measure of themselves: {name.replace('_', ' ')}."
            gauge = Gauge(f"rayfold_actor_{name}", words, ("pool", "actor"), registry=self.registry)
            self._actors[name] = gauge
        return gauge

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
