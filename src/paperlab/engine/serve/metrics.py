"""Prometheus metrics at /metrics."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "paperlab_requests", "Requests by address and status.", ("endpoint", "code"), registry=self.registry
        )
        self.tokens = Counter(
            "paperlab_tokens",
            "Tokens: read from prompts, cached (in prompts, read before), written, embedded.",
            ("kind",),
            registry=self.registry,
        )
        self.step = Histogram(
            "paperlab_step_seconds", "One run of the model over all texts.", buckets=_STEPS, registry=self.registry
        )
        self.first = Histogram(
            "paperlab_first_token_seconds", "From request to first token.", buckets=_WAITS, registry=self.registry
        )
        self.whole = Histogram(
            "paperlab_request_seconds", "A request, whole.", ("endpoint",), buckets=_WAITS, registry=self.registry
        )

    def watch(self, name: str, says: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(name, says, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
