"""The life of a rollout as a state machine: what it is, and what may happen to it.

Pure: knows no database, no clock, no MLflow, no feedback. `transition` turns a rollout and a Decision into the next rollout, and
the ledger stores it. Decisions are made in `deciding.py`, by what is observed, and in `actions/steering.py`, by people.

    running ──advance/shift/share/drop/hold──▶ running ──promote──▶ promoted ──revert──▶ reverted   (the champion before it
       │ ▲                                       ├──────abort────▶ aborted                            is back)
     pause resume                                └─inconclusive──▶ inconclusive    (the budget is spent, or superseded)
       ▼ │
     paused: keeps its shares and its units, gathers evidence, moves by hand; a crossed guardrail puts a version out all the same
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from evermoe.errors import BadInput, Conflict
from evermoe.months import MOST_DAYS
from registry.assignment import CHAMPION, arm_of
from registry.rules.best_arm import check_floor
from registry.rules.guardrails import Limits

Status = Literal["running", "paused", "promoted", "aborted", "inconclusive", "reverted"]
Action = Literal[
    "hold", "advance", "shift", "share", "drop", "pause", "resume", "promote", "abort", "inconclusive", "revert"
]
Cause = Literal["paused", "top", "harm", "few", "guardrail", "settled"]

OPEN: tuple[Status, ...] = ("running", "paused")
CLOSES: dict[str, Status] = {"promote": "promoted", "abort": "aborted", "inconclusive": "inconclusive"}
FOLLOWS: dict[str, Status] = {"open": "running", "pause": "paused", "resume": "running", "revert": "reverted", **CLOSES}
"""What a rollout is after an action; after any other it is what it was."""


@dataclass(frozen=True)
class Policy:
    """How a rollout climbs, and what ends it.

    `shares` is the ramp: the challenger's share of the units at each step, rising within (0, 1). Several challengers begin at
    the `floor` each, and never have less while they are in; together they climb no faster than a step of the ramp at a time,
    and beyond its top go where feedback leads. Their shares move by `least_move` of the units or not at all. After `max_days`,
    or with `max_rewards` counted, an undecided rollout ends and the champion stays. Feedback counts within `feedback_days` of its
    request; on requests without a unit, `unnamed_per_key` times from one API key.
    """

    alpha: float = 0.05
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    min_rewards_per_step: int = 8
    max_days: float = 62
    max_rewards: int = 60_000
    feedback_days: float = 14
    unnamed_per_key: int = 1000
    floor: float = 0.05
    least_move: float = 0.05
    limits: Limits = field(default_factory=Limits)

    @property
    def window(self) -> timedelta:
        """How long after its request feedback counts."""
        return timedelta(days=self.feedback_days)

    def __post_init__(self) -> None:
        ramp = tuple(self.shares)
        if not ramp or list(ramp) != sorted(set(ramp)) or not 0.0 < ramp[0] <= ramp[-1] < 1.0:
            raise BadInput(
                f"rollout shares {list(ramp)} must rise, each above 0 and below 1 (at 1 there is no one to compare with)"
            )
        if not 0.0 < self.alpha < 1.0:
            raise BadInput(f"rollout alpha is {self.alpha}; it must lie between 0 and 1")
        if not 0.0 < self.floor <= 0.5 or not 0.0 <= self.least_move < 1.0:
            raise BadInput("rollout floor must be above 0 and at most 0.5, least_move 0 or more and below 1")
        if self.unnamed_per_key < 0:
            raise BadInput("rollout unnamed_per_key is a count of rewards, 0 or more")
        if self.min_rewards_per_step < 1 or self.max_rewards < 1:
            raise BadInput("rollout min_rewards_per_step and max_rewards must be 1 or more")
        if not all(0 < days <= MOST_DAYS for days in (self.max_days, self.feedback_days)):
            raise BadInput(f"rollout max_days and feedback_days must be above 0 and at most {MOST_DAYS}")


@dataclass(frozen=True)
class Challenger:
    """A version on trial: its arm in the event log, its share of the units, and why it is out, where it is."""

    version: str
    arm: str
    share: float
    out: str = ""


class Tried:
    """What follows from a tuple of challengers; for those who have one."""

    challengers: tuple[Challenger, ...]

    @property
    def several(self) -> bool:
        """Whether more than one version was put on trial."""
        return len(self.challengers) > 1

    @cached_property
    def inside(self) -> tuple[Challenger, ...]:
        """The challengers that are not out, in the order in which they were named."""
        return tuple(one for one in self.challengers if not one.out)

    @property
    def challenger(self) -> str:
        """The version on trial; of several the one that was promoted, or else the first that is in."""
        return (*self.inside, *self.challengers)[0].version

    @property
    def share(self) -> float:
        """The part of the units that meet a challenger."""
        return math.fsum(one.share for one in self.challengers)

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """What units are assigned by (`registry.assignment.assign`): arms that are out are named too, with a share of 0."""
        return {one.arm: one.share for one in self.challengers}


@dataclass(frozen=True)
class Rollout(Tried):
    """The trial of one challenger, or of several, against one champion.

    `step` counts how often the shares have changed; `revision` every change.
    """

    id: str
    month: str
    champion: str
    challengers: tuple[Challenger, ...]
    salt: str
    step: int
    status: Status
    opened_at: datetime
    step_started_at: datetime
    closed_at: datetime | None = None
    reason: str = ""
    revision: int = 0

    @property
    def open(self) -> bool:
        """Whether units still meet a challenger."""
        return self.status in OPEN

    @property
    def serves(self) -> str:
        """The version that a closed rollout leaves in place."""
        return self.challenger if self.status == "promoted" else self.champion

    def version(self, arm: str) -> str:
        """The version that an arm's units meet."""
        return {CHAMPION: self.champion, **{one.arm: one.version for one in self.challengers}}[arm]


def content_of(rollout: Rollout) -> dict[str, Any]:
    """A rollout as JSON holds it, for programs."""
    content = asdict(rollout) | {"challenger": rollout.challenger, "share": rollout.share}
    for name in ("opened_at", "step_started_at", "closed_at"):
        content[name] = content[name].isoformat() if content[name] is not None else None
    return content


def listed(versions: Iterable[str], last: str = "and") -> str:
    """`5`, `5 and 6`, `5, 6 and 7`."""
    *others, end = versions
    return f"{', '.join(others)} {last} {end}" if others else end


@dataclass(frozen=True)
class Decision:
    """What to do with a rollout, the part of the units that meet a challenger after it, and why.

    `cause` names what decided where the action alone does not say it: what a hold waits for, or a guardrail. Of several
    challengers, `shares` are those of all arms that change, and `out` says who goes, and why.
    """

    action: Action
    share: float
    reason: str
    cause: Cause | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    out: Mapping[str, str] = field(default_factory=dict)


def new_rollout(
    id: str, month: str, champion: str, challengers: str | Sequence[str], salt: str, policy: Policy, now: datetime
) -> Rollout:
    """A rollout of one version, at the foot of the ramp, or of several, each at the floor.

    The salt must be new for each rollout, or its arms repeat the last one's.
    """
    versions = (challengers,) if isinstance(challengers, str) else tuple(challengers)
    if champion in versions:
        raise BadInput(f"version {champion} cannot be rolled out against itself")
    if not versions or len(set(versions)) < len(versions):
        raise BadInput("name one version, or several different ones, to put on trial")
    alone = len(versions) == 1
    if not alone:
        check_floor(policy.floor, len(versions))
    share = policy.shares[0] if alone else policy.floor
    arms = tuple(Challenger(version, arm_of(version, alone), share) for version in versions)
    return Rollout(id, month, champion, arms, salt, 0, "running", now, now)


def transition(rollout: Rollout, decision: Decision, now: datetime) -> Rollout:
    """The rollout after a decision. Raises `Conflict` when its state forbids the action; the revision grows by one."""
    action = decision.action
    if action == "hold":
        return rollout
    if action in CLOSES:
        require(rollout, action, OPEN)
        arms = _closed(rollout, decision)
        return _changed(rollout, status=CLOSES[action], closed_at=now, reason=decision.reason, challengers=arms)
    if action in ("pause", "resume"):
        require(rollout, action, ("running",) if action == "pause" else ("paused",))
        return _changed(rollout, status=FOLLOWS[action], reason=decision.reason)
    if action == "revert":
        require(rollout, action, ("promoted",))
        arms = _closed(rollout, decision)
        return _changed(rollout, status=FOLLOWS[action], closed_at=now, reason=decision.reason, challengers=arms)
    require(rollout, action, OPEN if action in ("share", "drop") else ("running",))
    arms = _dealt(rollout, decision)
    return _changed(rollout, challengers=arms, step=rollout.step + 1, step_started_at=now, reason=decision.reason)


def _dealt(rollout: Rollout, decision: Decision) -> tuple[Challenger, ...]:
    """The challengers with the shares that a decision gives them; who is out has none."""
    shares = dict(decision.shares) or {one.arm: decision.share for one in rollout.inside}
    arms = tuple(
        replace(one, out=out, share=0.0 if out else shares.get(one.arm, one.share))
        for one in rollout.challengers
        for out in (one.out or decision.out.get(one.arm, ""),)
    )
    if (total := math.fsum(one.share for one in arms)) > 1.0 + 1e-9:
        raise BadInput(
            f"rollout {rollout.id}: the challengers' shares add up to {total:g}; they must leave the champion some"
        )
    return arms


def _closed(rollout: Rollout, decision: Decision) -> tuple[Challenger, ...]:
    """The challengers at the end: one that is promoted keeps its share, all others have none."""
    arms = tuple(replace(one, out=one.out or decision.out.get(one.arm, "")) for one in rollout.challengers)
    if decision.action != "promote":
        return tuple(replace(one, share=0.0) for one in arms)
    if sum(not one.out for one in arms) != 1:
        raise BadInput(f"rollout {rollout.id}: say which version to promote")
    return tuple(replace(one, share=0.0) if one.out else one for one in arms)


def _changed(rollout: Rollout, **changes: object) -> Rollout:
    return replace(rollout, revision=rollout.revision + 1, **changes)  # type: ignore[arg-type]


def in_force(rollouts: Iterable[Rollout]) -> Rollout | None:
    """Of rollouts, the newest first, the one that says who serves: those that ended and moved nothing are passed over."""
    return next((one for one in rollouts if one.status not in ("aborted", "inconclusive")), None)


def floor_of(rollout: Rollout, policy: Policy) -> float:
    """The share of a challenger that nobody wants: the policy's, or an even part where that was raised past it while the rollout is
    open."""
    return min(policy.floor, 1.0 / (len(rollout.challengers) + 1))


def require(rollout: Rollout, action: str, allowed: tuple[Status, ...]) -> None:
    """Raise `Conflict` where the rollout's state forbids an action."""
    if rollout.status not in allowed:
        raise Conflict(f"cannot {action} rollout {rollout.id}: it is {rollout.status}, not {' or '.join(allowed)}")
