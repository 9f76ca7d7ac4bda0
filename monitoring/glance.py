"""A rollout at a glance: how its arms fare, how late feedback comes, and the rated answers with the experts that served them.

Cheap enough for a page under a long log: counts are the database's, percentiles are of the latest requests. Reads the event
log's tables and judges nothing (`registry/evidence.py` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from sqlalchemy import Engine, and_, case, func, literal_column, select

from monitoring.database import storage_errors
from monitoring.schema import FAILED, feedback, requests

RECENT = 10_000
"""Requests whose latency is looked at, and rated answers whose experts are: the latest of the rollout."""
_counted = and_(feedback.c.response_id == requests.c.id, literal_column("feedback.counted"))
# spelt as the index of counted feedback is: SQLite does not see that `counted = 1` is the same, and reads all feedback for each


@dataclass(frozen=True)
class ArmGlance:
    """One arm of a rollout. `rated` answers have their counted feedback; latencies are nearest-rank percentiles.

    A client that left is no failure.
    """

    arm: str
    requests: int
    failed: int
    rated: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None

    @property
    def waiting(self) -> int:
        """Answers whose user has said nothing so far."""
        return max(0, self.requests - self.failed - self.rated)


@dataclass(frozen=True)
class Rated:
    """One rated answer: who served it and what it was worth."""

    version: str
    unit: str
    experts: tuple[int, ...]
    reward: float
    delay_seconds: float


@dataclass(frozen=True)
class Glance:
    """The arms in alphabetical order, and the latest rated answers. The delay is from a request to its counted feedback."""

    arms: tuple[ArmGlance, ...]
    rated: tuple[Rated, ...]
    median_delay_seconds: float | None


def glance(engine: Engine, rollout: str, recent: int = RECENT) -> Glance:
    """The requests of `rollout` in the log at `engine`. Raises `StorageUnavailable`."""
    of_rollout = requests.c.rollout == rollout
    counts = (
        select(
            requests.c.arm,
            func.count().label("requests"),
            func.sum(case((FAILED, 1), else_=0)).label("failed"),
            func.count(feedback.c.key).label("rated"),
        )
        .join_from(requests, feedback, _counted, isouter=True)
        .where(of_rollout)
        .group_by(requests.c.arm)
        .order_by(requests.c.arm)
    )
    latest = select(requests.c.arm, requests.c.latency_ms).where(of_rollout).order_by(requests.c.at.desc())
    rated = (
        select(requests.c.version, requests.c.unit, requests.c.experts, feedback.c.reward, feedback.c.delay_seconds)
        .join_from(feedback, requests, _counted)
        .where(of_rollout)
        .order_by(feedback.c.sequence.desc())
    )
    with storage_errors(engine), engine.connect() as connection:
        arms = connection.execute(counts).all()
        latencies: dict[str, list[float]] = {}
        for arm, latency in connection.execute(latest.limit(recent)):
            latencies.setdefault(arm, []).append(latency)
        found = connection.execute(rated.limit(recent)).all()
    rows = tuple(Rated(row.version, row.unit, tuple(row.experts), row.reward, row.delay_seconds) for row in found)
    return Glance(
        arms=tuple(
            ArmGlance(
                row.arm,
                row.requests,
                int(row.failed),
                row.rated,
                _percentile(latencies.get(row.arm, []), 50),
                _percentile(latencies.get(row.arm, []), 95),
            )
            for row in arms
        ),
        rated=rows,
        median_delay_seconds=median(row.delay_seconds for row in rows) if rows else None,
    )


def _percentile(values: list[float], percent: int) -> float | None:
    """Nearest rank; None of nothing."""
    return sorted(values)[(len(values) * percent + 99) // 100 - 1] if values else None
