"""What a Prometheus server reads, parsed by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import CONTENT_TYPE, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Each sample's value by its name and the values of its labels, sorted by label."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_arm_route_status_and_version() -> None:
    metrics = Metrics()
    for status in (200, 200, 503):
        metrics.answered("/v1/classify", arm="champion", version="3", status=status, seconds=0.02)
    found = samples(metrics)
    assert found["evermoe_requests_total", "champion", "/v1/classify", "200", "3"] == 2
    assert found["evermoe_requests_total", "champion", "/v1/classify", "503", "3"] == 1


def test_latency_falls_into_its_bucket_in_seconds() -> None:
    metrics = Metrics()
    metrics.answered("/v1/classify", arm="challenger", version="4", status=200, seconds=0.3)
    found = samples(metrics)
    name = "evermoe_request_duration_seconds_bucket"
    assert found[name, "challenger", "0.25", "/v1/classify"] == 0
    assert found[name, "challenger", "0.5", "/v1/classify"] == 1
    assert found["evermoe_request_duration_seconds_sum", "challenger", "/v1/classify"] == 0.3


def test_tokens_are_counted_by_version_and_direction() -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.answered(
            "/v1/completions", arm="champion", version="3", status=200, seconds=1, prompt_tokens=7, output_tokens=5
        )
    found = samples(metrics)
    assert found["evermoe_tokens_total", "prompt", "3"] == 14
    assert found["evermoe_tokens_total", "output", "3"] == 10


def test_feedback_is_counted_by_outcome() -> None:
    metrics = Metrics()
    for outcome in ("counted", "duplicate", "counted"):
        metrics.feedback(outcome)
    found = samples(metrics)
    assert found["evermoe_feedback_total", "counted"] == 2
    assert found["evermoe_feedback_total", "duplicate"] == 1


def test_the_queue_is_asked_for_when_the_metrics_are_read() -> None:
    metrics = Metrics()
    waiting = [1, 2, 3]
    metrics.watch_queue(lambda: len(waiting))
    assert samples(metrics)["evermoe_event_log_queue_depth",] == 3
    waiting.clear()
    assert samples(metrics)["evermoe_event_log_queue_depth",] == 0


def test_a_promotion_leaves_no_trace_of_the_old_arms() -> None:
    metrics = Metrics()
    metrics.serving({"champion": "3", "challenger": "4"}, {"champion": 0.95, "challenger": 0.05})
    assert samples(metrics)["evermoe_arm_share", "challenger"] == 0.05
    metrics.serving({"champion": "4"}, {"champion": 1.0})
    found = samples(metrics)
    assert found["evermoe_serving_info", "champion", "4"] == 1
    assert {key for key in found if "challenger" in key or "3" in key} == set()


def test_two_gateways_do_not_share_figures() -> None:
    one, another = Metrics(), Metrics()
    one.feedback("counted")
    assert ("evermoe_feedback_total", "counted") not in samples(another)


def test_the_content_type_is_the_text_format_that_prometheus_asks_for() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")
