"""The life of a rollout as a state machine: what it is, what may happen to it, and what should happen next.

Pure: knows no database, no clock, no MLflow, no feedback but a verdict. `decide` takes observations and returns a Decision;
`transition` turns a rollout and a Decision into the next rollout. The ledger stores it, a flow calls it.

    running ──advance/share/hold──▶ running ──promote──▶ promoted ──revert──▶ reverted   (the champion before it is back)
       │ ▲                            ├──────abort────▶ aborted
     pause resume                     └─inconclusive──▶ inconclusive    (the budget of days or rewards is spent, or superseded)
       ▼ │
     paused: keeps its share and its units, gathers evidence, moves by hand; a crossed guardrail aborts it all the same

Guardrails (`guardrails.py`) can only stop: abort what is open, revert what was promoted. Signals (`signals.py`) can only pause.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from evermoe.errors import BadInput, Conflict
from registry.evidence import Verdict
from registry.guardrails import Guarded, Limits
from registry.signals import Signal

Status = Literal["running", "paused", "promoted", "aborted", "inconclusive", "reverted"]
Action = Literal["hold", "advance", "share", "pause", "resume", "promote", "abort", "inconclusive", "revert"]
Cause = Literal["paused", "top", "harm", "few", "guardrail"]

OPEN: tuple[Status, ...] = ("running", "paused")
CLOSES: dict[str, Status] = {"promote": "promoted", "abort": "aborted", "inconclusive": "inconclusive"}


@dataclass(frozen=True)
class Policy:
    """How a rollout climbs, and what ends it.

    `shares` is the ramp: the challenger's share of the units at each step, rising within (0, 1). After `max_days`, or with
    `max_rewards` counted, an undecided rollout ends and the champion stays. Feedback counts within `feedback_days` of its request.
    """

    alpha: float = 0.05
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    min_rewards_per_step: int = 8
    max_days: float = 62
    max_rewards: int = 60_000
    feedback_days: float = 14
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
        if self.min_rewards_per_step < 1 or self.max_rewards < 1 or self.max_days <= 0 or self.feedback_days <= 0:
            raise BadInput(
                "rollout min_rewards_per_step and max_rewards must be 1 or more, max_days and feedback_days above 0"
            )


@dataclass(frozen=True)
class Rollout:
    """One challenger's trial against one champion. `step` counts how often the share has changed; `revision` every change."""

    id: str
    month: str
    champion: str
    challenger: str
    salt: str
    share: float
    step: int
    status: Status
    opened_at: datetime
    step_started_at: datetime
    closed_at: datetime | None = None
    reason: str = ""
    revision: int = 0

    @property
    def open(self) -> bool:
        """Whether units still meet the challenger."""
        return self.status in OPEN


@dataclass(frozen=True)
class Watch:
    """What was seen beside the rewards: guardrails, which can only stop, and signals, which can only pause."""

    guardrails: tuple[Guarded, ...] = ()
    signals: tuple[Signal, ...] = ()

    @property
    def crossed(self) -> str:
        """Why to stop; empty where no guardrail is crossed."""
        return "; ".join(f"guardrail crossed: {one.reason}" for one in self.guardrails if one.crossed)

    @property
    def alarm(self) -> str:
        """Why to pause; empty where no signal alarms."""
        return "; ".join(f"{one.name} alarm: {one.reason}" for one in self.signals if one.alarm)


@dataclass(frozen=True)
class Decision:
    """What to do with a rollout, the challenger's share after it, and why.

    `cause` names what decided where the action alone does not say it: what a hold waits for, or a guardrail.
    """

    action: Action
    share: float
    reason: str
    cause: Cause | None = None


def new_rollout(
    id: str, month: str, champion: str, challenger: str, salt: str, policy: Policy, now: datetime
) -> Rollout:
    """A rollout at the foot of the ramp. The salt must be new for each rollout, or its arms repeat the last one's."""
    if champion == challenger:
        raise BadInput(f"version {champion} cannot be rolled out against itself")
    return Rollout(id, month, champion, challenger, salt, policy.shares[0], 0, "running", now, now)


def decide(
    rollout: Rollout, verdict: Verdict, policy: Policy, now: datetime, rewards_since_step: int, watch: Watch = Watch()
) -> Decision:
    """The next step of a rollout. `rewards_since_step` counts new rewards, of either arm, since its share last changed.

    A crossed guardrail aborts before anything else, a paused rollout too. An alarm pauses before a verdict is acted on: where
    units do not meet the arms as asked for, the verdict is about other units. It pauses again whoever resumes without cure.

    A share rises when enough rewards came at the present one and nothing smells of harm. The smell is e_abort at the square
    root of what would abort: half the evidence, in logarithms. A harmless challenger is ever held by it with probability at
    most sqrt(alpha / 2), 16% at alpha 0.05 (Ville), and loses only time; a harmful one stays with few units while the proof
    completes. Where it fails: unlucky first units can hold a good challenger at a low share, where evidence is slow; a share
    set by hand frees it.
    """
    if not rollout.open:
        return _hold(rollout, f"already {rollout.status}")
    if watch.crossed:
        return Decision("abort", 0.0, f"{watch.crossed}; {verdict.reason}", "guardrail")
    if rollout.status == "paused":
        return _hold(rollout, f"paused; {verdict.reason}", "paused")
    if watch.alarm:
        return Decision("pause", rollout.share, f"{watch.alarm}; {verdict.reason}")
    if verdict.decision == "promote":
        return Decision("promote", rollout.share, verdict.reason)
    if verdict.decision == "abort":
        return Decision("abort", 0.0, verdict.reason)
    if spent := _spent(rollout, verdict, policy, now):
        return Decision("inconclusive", 0.0, f"no proof in {spent}, the champion stays; {verdict.reason}")
    return _climb(rollout, verdict, policy, rewards_since_step)


def _spent(rollout: Rollout, verdict: Verdict, policy: Policy, now: datetime) -> str:
    """The budget that is used up, in words; empty while there is some left."""
    if now - rollout.opened_at >= timedelta(days=policy.max_days):
        return f"{policy.max_days:g} days"
    counted = sum(verdict.rewards.values())
    return f"{counted} rewards" if counted >= policy.max_rewards else ""


def _climb(rollout: Rollout, verdict: Verdict, policy: Policy, rewards_since_step: int) -> Decision:
    higher = next((share for share in policy.shares if share > rollout.share), None)
    if higher is None:
        return _hold(rollout, f"at the top of the ramp; {verdict.reason}", "top")
    if verdict.e_abort >= verdict.threshold**0.5:
        return _hold(rollout, f"a smell of harm keeps the share at {rollout.share:g}; {verdict.reason}", "harm")
    if rewards_since_step < policy.min_rewards_per_step:
        return _hold(
            rollout,
            f"{rewards_since_step} of {policy.min_rewards_per_step} rewards at share {rollout.share:g}; {verdict.reason}",
            "few",
        )
    return Decision(
        "advance", higher, f"{rewards_since_step} rewards at share {rollout.share:g} without harm; {verdict.reason}"
    )


def is_watched(rollout: Rollout, policy: Policy, now: datetime) -> bool:
    """Whether it was promoted so lately that its guardrails may still bring the champion before it back."""
    if rollout.status != "promoted" or rollout.closed_at is None:
        return False
    return now - rollout.closed_at <= timedelta(days=policy.limits.days)


def guard(rollout: Rollout, watch: Watch, policy: Policy, now: datetime) -> Decision:
    """What becomes of a promoted version in its first days: it stays, or the champion before it comes back."""
    if not is_watched(rollout, policy, now):
        return _hold(rollout, f"{rollout.status}, and not within {policy.limits.days:g} days of a promotion")
    if watch.crossed:
        return Decision("revert", 0.0, f"{watch.crossed}; version {rollout.champion} is champion again")
    return _hold(rollout, "; ".join(one.reason for one in watch.guardrails))


def pause(rollout: Rollout, reason: str = "paused by hand") -> Decision:
    """Stop all automatic moves; the units keep their arms. Raises `Conflict` unless running."""
    _require(rollout, "pause", ("running",))
    return Decision("pause", rollout.share, reason)


def resume(rollout: Rollout, reason: str = "resumed by hand") -> Decision:
    """Let it move again. Raises `Conflict` unless paused."""
    _require(rollout, "resume", ("paused",))
    return Decision("resume", rollout.share, reason)


def set_share(rollout: Rollout, share: float, reason: str = "share set by hand") -> Decision:
    """Give the challenger this share; the ramp goes on from there. Lowering it sends units back to the champion.

    Raises `Conflict` when closed, `BadInput` when the share is not above 0 and below 1.
    """
    _require(rollout, "change the share of", OPEN)
    if not 0.0 < share < 1.0:
        raise BadInput(f"a share of {share:g} compares nothing; give one above 0 and below 1, or promote, or abort")
    return Decision("share", share, reason)


def promote(rollout: Rollout, reason: str = "promoted by hand") -> Decision:
    """Let the challenger take over without waiting for proof. Raises `Conflict` when closed."""
    _require(rollout, "promote", OPEN)
    return Decision("promote", rollout.share, reason)


def abort(rollout: Rollout, reason: str = "aborted by hand") -> Decision:
    """Send all units back to the champion. Raises `Conflict` when closed."""
    _require(rollout, "abort", OPEN)
    return Decision("abort", 0.0, reason)


def make_way(rollout: Rollout, verdict: Verdict, month: str) -> Decision:
    """What becomes of an open rollout when the challenger of a later month is ready: it is superseded, or the newer one waits.

    It waits for a pause to end, and for a rollout that is half-way to a promotion (in logarithms): starting again
    with every month would throw away evidence that users have paid for. Where it fails: the newer challenger may be the
    better one, and loses a month; `max_days` bounds that. Raises `Conflict` when closed.
    """
    _require(rollout, "supersede", OPEN)
    if rollout.status == "paused":
        return _hold(rollout, f"paused; the challenger of {month} waits")
    if verdict.e_promote >= verdict.threshold**0.5:
        return _hold(rollout, f"close to a promotion, so the challenger of {month} waits; {verdict.reason}")
    return Decision("inconclusive", 0.0, f"superseded by the challenger of {month}; {verdict.reason}")


def transition(rollout: Rollout, decision: Decision, now: datetime) -> Rollout:
    """The rollout after a decision. Raises `Conflict` when its state forbids the action; the revision grows by one."""
    action = decision.action
    if action == "hold":
        return rollout
    if action in CLOSES:
        _require(rollout, action, OPEN)
        share = rollout.share if action == "promote" else 0.0
        return _changed(rollout, status=CLOSES[action], closed_at=now, reason=decision.reason, share=share)
    if action in ("pause", "resume"):
        _require(rollout, action, ("running",) if action == "pause" else ("paused",))
        return _changed(rollout, status="paused" if action == "pause" else "running", reason=decision.reason)
    if action == "revert":
        _require(rollout, action, ("promoted",))
        return _changed(rollout, status="reverted", closed_at=now, reason=decision.reason, share=0.0)
    _require(rollout, action, OPEN if action == "share" else ("running",))
    return _changed(rollout, share=decision.share, step=rollout.step + 1, step_started_at=now, reason=decision.reason)


def _changed(rollout: Rollout, **changes: object) -> Rollout:
    return replace(rollout, revision=rollout.revision + 1, **changes)  # type: ignore[arg-type]


def _hold(rollout: Rollout, reason: str, cause: Cause | None = None) -> Decision:
    return Decision("hold", rollout.share, reason, cause)


def _require(rollout: Rollout, action: str, allowed: tuple[Status, ...]) -> None:
    if rollout.status not in allowed:
        raise Conflict(f"cannot {action} rollout {rollout.id}: it is {rollout.status}, not {' or '.join(allowed)}")
