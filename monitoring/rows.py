"""The rows of the event log and what is read from it, as plain data, with the rules a single row must obey.

Knows nothing of databases, threads or HTTP: what makes rows wrong *together* (an id used twice, feedback for an unknown
response) is decided where they are written, in `monitoring/writer.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from evermoe.errors import BadInput

MAX_NAME_LENGTH = 256
"""Characters an id, a key, an arm, a version or a rollout may have: they are indexed, and PostgreSQL bounds index entries."""

CLIENT_LEFT = "the client left before the end"
"""The `error` of a request whose client left in mid-stream: no fault of the arm."""
CUT_TO_NOTHING = "the client's own stop string left nothing"
"""The `error` of a text of which the client's `stop` left nothing: it says how it was asked, and nothing of the arm."""


@dataclass(frozen=True)
class Request:
    """One request and its answer. `at` is when it was asked; `unit` is who asked, made up by us unless `unit_given`."""

    id: str
    at: datetime
    kind: str
    """`classify`, `chat` or `completion`."""
    unit: str
    unit_given: bool
    input: str
    output: str
    """The label answered, or the text."""
    scores: dict[str, float] | None
    rollout: str | None
    arm: str
    """`champion`, `challenger` (of several, `challenger:VERSION`), `pinned` when the caller chose the version, or `apart` for a
    unit outside of all rollouts."""
    version: str
    propensity: float
    """The probability with which this unit was given this arm, above 0 and at most 1."""
    latency_ms: float
    prompt_tokens: int
    output_tokens: int
    experts: tuple[int, ...]
    error: str | None = None
    shadow: str | None = None
    """What the other arm of the rollout would have answered, where it was asked too; nobody was shown it."""
    api_key: str = ""
    """The id of the API key that asked; empty where none was needed, and then anyone may give feedback."""
    shares: dict[str, float] | None = None
    """Of a rollout with several challengers, the share of every arm when this unit was drawn: the chance that it met one of any
    two arms follows from them. With one challenger the propensity says it all."""


@dataclass(frozen=True)
class Feedback:
    """What a user said about an answer: a `score` from 0 to 1, the right `label`, or both. `key` makes a retry harmless."""

    key: str
    response_id: str
    at: datetime
    score: float | None
    label: str | None
    api_key: str = ""
    """The id of the API key that it came with; its idempotency keys are its own."""


Row = Request | Feedback


@dataclass(frozen=True)
class Receipt:
    """What became of a feedback. Only a counted one has a reward; `reason` says why another was not counted."""

    counted: bool
    reward: float | None
    reason: str


@dataclass(frozen=True)
class Reward:
    """What one response was worth, from 0 to 1: its first feedback, or 0 where it failed, and what an experiment must know.

    `at` is when that became known.
    """

    response_id: str
    unit: str
    unit_given: bool
    arm: str
    version: str
    propensity: float
    reward: float
    requested_at: datetime
    at: datetime
    agreed: bool
    """Whether both arms are known to give this answer, so that the reward says nothing of their difference."""
    shares: dict[str, float] | None = None
    """As the request has them."""
    api_key: str = ""
    """The key that asked; empty where none is needed."""


@dataclass(frozen=True)
class FirstRequest:
    """The first request of a unit in a rollout: which arm it was drawn into, with which probability, and what went wrong.

    Later requests of the unit meet the arm that it has, so they are no fresh draws. `empty` is an answer without a word, or one
    that begins as a refusal; a failed one is `failed` alone.
    """

    at: datetime
    arm: str
    version: str
    propensity: float
    failed: bool
    slow: bool
    empty: bool
    shares: dict[str, float] | None = None
    """As the request has them."""


@dataclass(frozen=True)
class Met:
    """An arm that a unit met, and the chances at which it was drawn: `propensity` and `shares` as in `Request`."""

    arm: str
    propensity: float
    shares: dict[str, float] | None


@dataclass(frozen=True)
class Units:
    """How many units a rollout met, and everything that those met who met arms as one challenger's share alone does not explain."""

    count: int
    moved: tuple[tuple[Met, ...], ...]


@dataclass(frozen=True)
class Answered:
    """A request with the feedback that was known at some moment. `label` is the right answer, if the user gave it.

    `reward` is the counted feedback's. `feedback_at` is when the label arrived, or the counted feedback where there is none.
    """

    request: Request
    label: str | None
    reward: float | None
    feedback_at: datetime | None


@dataclass(frozen=True)
class Counts:
    """Rows in the log. `feedback` includes the feedback that was kept but not counted."""

    requests: int
    feedback: int


def check(row: Row) -> None:
    """Raise `BadInput` unless `row` can be stored and later means one thing."""
    if row.at.tzinfo is None:
        raise BadInput(f"{_name(row)}: its time {row.at} has no time zone; give it in UTC")
    names = (
        (row.id, row.kind, row.rollout or "none", row.arm, row.version, row.api_key or "none")
        if isinstance(row, Request)
        else (row.key, row.response_id, row.api_key or "none")
    )
    if not all(0 < len(name) <= MAX_NAME_LENGTH for name in names):
        raise BadInput(f"{_name(row)}: ids, keys and names must have 1 to {MAX_NAME_LENGTH} characters")
    if isinstance(row, Request):
        if not 0 < row.propensity <= 1:
            raise BadInput(f"{_name(row)}: propensity {row.propensity} is not above 0 and at most 1")
        if not (math.isfinite(row.latency_ms) and row.latency_ms >= 0):
            raise BadInput(f"{_name(row)}: latency {row.latency_ms} ms is not a duration")
    elif row.score is None and row.label is None:
        raise BadInput(f"{_name(row)}: give a score from 0 to 1 or the right label")
    elif row.score is not None and not 0 <= row.score <= 1:
        raise BadInput(f"{_name(row)}: score {row.score} is not between 0 and 1")


def reward_of(feedback: Feedback, output: str) -> float:
    """The score if one was given, else 1 when the right label is what we answered (`output`), else 0."""
    if feedback.score is not None:
        return float(feedback.score)
    return 1.0 if feedback.label == output else 0.0


def _name(row: Row) -> str:
    return f"request {row.id[:40]}" if isinstance(row, Request) else f"feedback {row.key[:40]}"
