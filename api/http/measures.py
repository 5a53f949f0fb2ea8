"""What the HTTP interface measures of itself, for Prometheus. Knows no team: no label carries a user's name."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


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

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
