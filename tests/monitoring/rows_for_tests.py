"""Rows with every field filled in, so that a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from monitoring.events import Feedback, Request

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_request(identifier: str = "r1", **changes: Any) -> Request:
    """A classified note of 2025-06-01 12:00, answered `network` by the champion."""
    fields: dict[str, Any] = {
        "id": identifier,
        "at": NOON,
        "kind": "classify",
        "unit": "ann",
        "unit_given": True,
        "input": "fix the vlan option",
        "output": "network",
        "scores": {"network": 0.75, "database": 0.25},
        "rollout": "2025-06",
        "arm": "champion",
        "version": "3",
        "propensity": 0.95,
        "latency_ms": 12.5,
        "prompt_tokens": 6,
        "output_tokens": 1,
        "experts": (7, 101, 3),
    }
    return Request(**(fields | changes))


def a_feedback(key: str = "k1", response_id: str = "r1", **changes: Any) -> Feedback:
    """The right label, `network`, an hour after noon."""
    fields: dict[str, Any] = {"at": NOON + timedelta(hours=1), "score": None, "label": "network"}
    return Feedback(key=key, response_id=response_id, **(fields | changes))
