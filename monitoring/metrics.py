"""What the gateway tells Prometheus about itself: requests, latency, tokens, feedback, the log's queue, who serves what.

Knows nothing of HTTP: whoever serves `/metrics` answers with `render()` and `CONTENT_TYPE`. Each instance has a registry of
its own, so that two gateways in one process (as in tests) do not add up. Units and rollouts are not labels of any metric:
their values are without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from one small classification to a long generation on a busy CPU."""


class Metrics:
    """The metrics of one gateway. Every method is safe to call from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "evermoe_requests",
            "Requests answered, by route, arm, model version and HTTP status.",
            ("route", "arm", "version", "status"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "evermoe_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("route", "arm"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "evermoe_tokens",
            "Tokens read (prompt) and written (output).",
            ("version", "direction"),
            registry=self.registry,
        )
        self._feedback = Counter(
            "evermoe_feedback",
            "Feedback received, by what became of it: counted, duplicate, refused ...",
            ("outcome",),
            registry=self.registry,
        )
        self._queue = Gauge(
            "evermoe_event_log_queue_depth", "Rows that wait to be written to the event log.", registry=self.registry
        )
        self._share = Gauge(
            "evermoe_arm_share", "Share of the units that each arm serves now.", ("arm",), registry=self.registry
        )
        self._serving = Gauge(
            "evermoe_serving_info",
            "The model version that each arm serves; always 1.",
            ("arm", "version"),
            registry=self.registry,
        )

    def answered(
        self,
        route: str,
        *,
        arm: str,
        version: str,
        status: int,
        seconds: float,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """Count one request. `route` is the route's template, never the raw path; `arm` and `version` may be empty."""
        self._requests.labels(route, arm, version, str(status)).inc()
        self._latency.labels(route, arm).observe(seconds)
        if prompt_tokens or output_tokens:
            self._tokens.labels(version, "prompt").inc(prompt_tokens)
            self._tokens.labels(version, "output").inc(output_tokens)

    def feedback(self, outcome: str) -> None:
        """Count one feedback; `outcome` is from a small fixed set (a receipt's reason, or why it was refused)."""
        self._feedback.labels(outcome).inc()

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Ask `depth` for the event log's queue whenever the metrics are read."""
        self._queue.set_function(depth)

    def serving(self, versions: Mapping[str, str], shares: Mapping[str, float]) -> None:
        """Replace what each arm serves and its share; arms that are named no more disappear."""
        self._serving.clear()
        for arm, version in versions.items():
            self._serving.labels(arm, version).set(1)
        self._share.clear()
        for arm, share in shares.items():
            self._share.labels(arm).set(share)

    def render(self) -> bytes:
        """Everything in Prometheus' text format, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)
