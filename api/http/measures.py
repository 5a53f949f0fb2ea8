"""What the HTTP interface measures of itself, for Prometheus. Knows no team: no label carries a user's name."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from actors.archiver import LogReport

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


class Metrics:
    """One registry for each app, so that two in one process do not share counts."""

    def __init__(self, clients: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rayfold_api_requests", "Requests answered.", ["operation", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "rayfold_api_request_seconds",
            "Time to the end of the answer; live streams are not counted.",
            ["operation"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.commands = Counter(
            "rayfold_api_commands", "Commands submitted, by outcome.", ["outcome"], registry=self.registry
        )
        self.uploaded = Counter("rayfold_api_upload_bytes", "Source bytes received.", registry=self.registry)
        self.streams = Gauge("rayfold_api_streams", "Open server-sent event streams.", registry=self.registry)
        followers = Gauge("rayfold_api_log_followers", "Streams that follow the event log.", registry=self.registry)
        followers.set_function(lambda: float(clients()))

        self._log = {
            name: Gauge(f"rayfold_log_{name}", words, labels, registry=self.registry)
            for name, (words, labels) in _LOG_GAUGES.items()
        }

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

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
