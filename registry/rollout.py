"""The life of a rollout as a state machine: what it is, what may happen to it, and what should happen next.

Pure: knows no database, no clock, no MLflow, no feedback but a verdict. `decide` takes observations and returns a Decision;
`transition` turns a rollout and a Decision into the next rollout. The ledger stores it, a flow calls it.

    running ──advance/share/hold──▶ running ──promote──▶ promoted
       │ ▲                            ├──────abort────▶ aborted
     pause resume                     └─inconclusive──▶ inconclusive    (max_days passed, or superseded)
       ▼ │
     paused: keeps its share and its units, gathers evidence, moves only by hand
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from evermoe.errors import BadInput, Conflict
from registry.evidence import Verdict

Status = Literal["running", "paused", "promoted", "aborted", "inconclusive"]
Action = Literal["hold", "advance", "share", "pause", "resume", "promote", "abort", "inconclusive"]

OPEN: tuple[Status, ...] = ("running", "paused")
CLOSES: dict[str, Status] = {"promote": "promoted", "abort": "aborted", "inconclusive": "inconclusive"}


@dataclass(frozen=True)
class Policy:
    """How a rollout climbs. `shares` is the ramp: the challenger's share of the units at each step, rising within (0, 1)."""

    alpha: float = 0.05
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    min_rewards_per_step: int = 8
    max_days: float = 62

    def __post_init__(self) -> None:
        ramp = tuple(self.shares)
        if not ramp or list(ramp) != sorted(set(ramp)) or not 0.0 < ramp[0] <= ramp[-1] < 1.0:
            raise BadInput(
                f"rollout shares {list(ramp)} must rise, each above 0 and below 1 (at 1 there is no one to compare with)"
            )
        if not 0.0 < self.alpha < 1.0:
            raise BadInput(f"rollout alpha is {self.alpha}; it must lie between 0 and 1")
        if self.min_rewards_per_step < 1 or self.max_days <= 0:
            raise BadInput("rollout min_rewards_per_step must be 1 or more, and max_days above 0")


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
class Decision:
    """What to do with a rollout, the challenger's share after it, and why."""

    action: Action
    share: float
    reason: str


def new_rollout(
    id: str, month: str, champion: str, challenger: str, salt: str, policy: Policy, now: datetime
) -> Rollout:
    """A rollout at the foot of the ramp. The salt must be new for each rollout, or its arms repeat the last one's."""
    if champion == challenger:
        raise BadInput(f"version {champion} cannot be rolled out against itself")
    return Rollout(id, month, champion, challenger, salt, policy.shares[0], 0, "running", now, now)


def decide(rollout: Rollout, verdict: Verdict, policy: Policy, now: datetime, rewards_since_step: int) -> Decision:
    """The next step of a rollout. `rewards_since_step` counts new rewards, of either arm, since its share last changed.

    A share rises when enough rewards came at the present one and nothing smells of harm. The smell is e_abort at the square
    root of what would abort: half the evidence, in logarithms. A harmless challenger is ever held by it with probability at
    most sqrt(alpha / 2), 16% at alpha 0.05 (Ville), and loses only time; a harmful one stays with few units while the proof
    completes. Where it fails: unlucky first units can hold a good challenger at a low share, where evidence is slow; a share
    set by hand frees it.
    """
    if not rollout.open:
        return _hold(rollout, f"already {rollout.status}")
    if rollout.status == "paused":
        return _hold(rollout, f"paused by hand; {verdict.reason}")
    if verdict.decision == "promote":
        return Decision("promote", rollout.share, verdict.reason)
    if verdict.decision == "abort":
        return Decision("abort", 0.0, verdict.reason)
    if now - rollout.opened_at >= timedelta(days=policy.max_days):
        return Decision(
            "inconclusive", 0.0, f"no proof in {policy.max_days:g} days, the champion stays; {verdict.reason}"
        )
    higher = next((share for share in policy.shares if share > rollout.share), None)
    if higher is None:
        return _hold(rollout, f"at the top of the ramp; {verdict.reason}")
    if verdict.e_abort >= verdict.threshold**0.5:
        return _hold(rollout, f"a smell of harm keeps the share at {rollout.share:g}; {verdict.reason}")
    if rewards_since_step < policy.min_rewards_per_step:
        return _hold(
            rollout,
            f"{rewards_since_step} of {policy.min_rewards_per_step} rewards at share {rollout.share:g}; {verdict.reason}",
        )
    return Decision(
        "advance", higher, f"{rewards_since_step} rewards at share {rollout.share:g} without harm; {verdict.reason}"
    )


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

    It waits for a person's pause to end, and for a rollout that is half-way to a promotion (in logarithms): starting again
    with every month would throw away evidence that users have paid for. Where it fails: the newer challenger may be the
    better one, and loses a month; `max_days` bounds that. Raises `Conflict` when closed.
    """
    _require(rollout, "supersede", OPEN)
    if rollout.status == "paused":
        return _hold(rollout, f"paused by hand; the challenger of {month} waits")
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
    _require(rollout, action, OPEN if action == "share" else ("running",))
    return _changed(rollout, share=decision.share, step=rollout.step + 1, step_started_at=now, reason=decision.reason)


def _changed(rollout: Rollout, **changes: object) -> Rollout:
    return replace(rollout, revision=rollout.revision + 1, **changes)  # type: ignore[arg-type]


def _hold(rollout: Rollout, reason: str) -> Decision:
    return Decision("hold", rollout.share, reason)


def _require(rollout: Rollout, action: str, allowed: tuple[Status, ...]) -> None:
    if rollout.status not in allowed:
        raise Conflict(f"cannot {action} rollout {rollout.id}: it is {rollout.status}, not {' or '.join(allowed)}")
