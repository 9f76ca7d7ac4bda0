"""What should happen next to a rollout, by what is observed: the rules of the automatic steps.

Pure: knows no database, no clock, no MLflow, no feedback but what it proves. Each rule takes a rollout and observations and returns
a Decision; `rollout.transition` carries it out. A flow asks every ten minutes, and the console at any time.

One challenger climbs a ramp (`advance`); of several, shares follow what is hoped of each (`shift`), and one that is proved
worse, or crosses a guardrail, is out (`drop`) while the others go on. What is proved is `best_arm`'s, for one as for several.

Guardrails can only stop: put out what is open, revert what was promoted. Signals can only pause. The rules of all three stand in
`rules/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.rollout import OPEN, Cause, Decision, Policy, Rollout, floor_of, require
from registry.rules.best_arm import Standing
from registry.rules.guardrails import Guarded
from registry.rules.signals import Signal


@dataclass(frozen=True)
class Watch:
    """What was seen beside the rewards: guardrails, which can only stop, and signals, which can only pause."""

    guardrails: tuple[Guarded, ...] = ()
    signals: tuple[Signal, ...] = ()

    @property
    def crossed(self) -> str:
        """Why to stop; empty where no guardrail is crossed."""
        return "; ".join(self.fallen.values())

    @property
    def fallen(self) -> dict[str, str]:
        """The arms that crossed a guardrail, each with the reason to stop it."""
        reasons: dict[str, list[str]] = {}
        for one in self.guardrails:
            if one.crossed:
                reasons.setdefault(one.arm, []).append(f"guardrail crossed: {one.reason}")
        return {arm: "; ".join(said) for arm, said in reasons.items()}

    @property
    def alarm(self) -> str:
        """Why to pause; empty where no signal alarms."""
        return "; ".join(f"{one.name} alarm: {one.reason}" for one in self.signals if one.alarm)


def decide(
    rollout: Rollout, proof: Standing, policy: Policy, now: datetime, rewards_since_step: int, watch: Watch = Watch()
) -> Decision:
    """The next step of a rollout. `rewards_since_step` counts new rewards, of any arm, since its shares last changed.

    A crossed guardrail puts a version out before anything else, in a paused rollout too. An alarm pauses before a verdict is
    acted on: where units do not meet the arms as asked for, the verdict is about other units. It pauses again whoever resumes
    without cure.
    """
    if not rollout.open:
        return _hold(rollout, f"already {rollout.status}")
    told = {one.arm: proof.verdict(one.arm).reason for one in rollout.inside}
    said = "; ".join(f"version {rollout.version(arm)}: {why}" if rollout.several else why for arm, why in told.items())
    if fallen := {arm: f"{why}; {told[arm]}" for arm, why in watch.fallen.items() if arm in told}:
        return without(rollout, fallen, "guardrail")
    if rollout.status == "paused":
        return _hold(rollout, f"paused; {said}", "paused")
    if watch.alarm:
        return Decision("pause", rollout.share, f"{watch.alarm}; {said}")
    if proof.decision == "promote" and proof.arm in told:
        others = {arm: proof.out[arm] for arm in told if arm != proof.arm}
        return Decision("promote", rollout.share, told[proof.arm], out=others)
    if worse := {arm: why for arm, why in proof.out.items() if arm in told}:
        return without(rollout, worse)
    if spent := _spent(rollout, proof, policy, now):
        return Decision("inconclusive", 0.0, f"no proof in {spent}, the champion stays; {said}")
    if rollout.several:
        return _follow(rollout, proof, policy, rewards_since_step, said)
    return _climb(rollout, proof, policy, rewards_since_step)


def rewards_needed(rollout: Rollout, policy: Policy) -> int:
    """How many rewards must come before shares move by themselves."""
    return policy.min_rewards_per_step * len(rollout.inside)


def without(rollout: Rollout, out: Mapping[str, str], cause: Cause | None = None) -> Decision:
    """Who is named goes; the others keep their shares, and the champion has the rest. The trial ends with the last."""
    if not rollout.several:
        return Decision("abort", 0.0, "; ".join(out.values()), cause)
    reason = "; ".join(f"version {rollout.version(arm)} is out: {why}" for arm, why in out.items())
    left = {one.arm: one.share for one in rollout.inside if one.arm not in out}
    if not left:
        return Decision("abort", 0.0, reason, cause, out=out)
    return Decision("drop", math.fsum(left.values()), reason, cause, left, out)


def _spent(rollout: Rollout, proof: Standing, policy: Policy, now: datetime) -> str:
    """The budget that is used up, in words; empty while there is some left."""
    if now - rollout.opened_at >= timedelta(days=policy.max_days):
        return f"{policy.max_days:g} days"
    return f"{proof.rewards} rewards" if proof.rewards >= policy.max_rewards else ""


def _climb(rollout: Rollout, proof: Standing, policy: Policy, rewards_since_step: int) -> Decision:
    """A lone challenger's share rises when enough rewards came at the present one and nothing smells of harm.

    The smell is e_abort at the square root of what would abort: half the evidence, in logarithms. A harmless challenger is
    ever held by it with probability at most sqrt(alpha / 2), 16% at alpha 0.05 (Ville), and loses only time; a harmful one
    stays with few units while the proof completes. Where it fails: unlucky first units can hold a good challenger at a low
    share, where evidence is slow; a share set by hand frees it.
    """
    verdict = proof.verdict()
    higher = next((share for share in policy.shares if share > rollout.share), None)
    if higher is None:
        return _hold(rollout, f"at the top of the ramp; {verdict.reason}", "top")
    if verdict.e_abort >= verdict.threshold**0.5:
        return _hold(rollout, f"a smell of harm keeps the share at {rollout.share:g}; {verdict.reason}", "harm")
    seen = f"{rewards_since_step} of {policy.min_rewards_per_step} rewards at share {rollout.share:g}"
    if rewards_since_step < policy.min_rewards_per_step:
        return _hold(rollout, f"{seen}; {verdict.reason}", "few")
    return Decision(
        "advance", higher, f"{rewards_since_step} rewards at share {rollout.share:g} without harm; {verdict.reason}"
    )


def _follow(rollout: Rollout, proof: Standing, policy: Policy, rewards_since_step: int, said: str) -> Decision:
    """Several challengers' shares go where they are wanted, a step of the ramp at a time, and only where it is worth a move.

    A share is a lease on users' experience: who moves meets another version. So nothing moves before enough rewards came at
    these shares, nor by less than `least_move` of the units. What keeps harm small while it is unproved is that hope of a bad
    version falls, to the floor; no smell holds the shares.
    """
    needed = rewards_needed(rollout, policy)
    if rewards_since_step < needed:
        return _hold(rollout, f"{rewards_since_step} of {needed} rewards at these shares; {said}", "few")
    aim = _within_reach(rollout, proof.wanted, policy)
    moved = math.fsum(abs(aim[one.arm] - one.share) for one in rollout.inside)  # to the champion, and from it
    if moved < max(policy.least_move - 1e-9, 1e-6):
        return _hold(
            rollout, f"{moved:.1%} of the units would move, less than {policy.least_move:.0%}; {said}", "settled"
        )
    shown = ", ".join(f"version {one.version} {aim[one.arm]:.1%}" for one in rollout.inside)
    return Decision(
        "shift",
        math.fsum(aim.values()),
        f"{rewards_since_step} rewards at these shares; now {shown}; {said}",
        shares=aim,
    )


def _within_reach(rollout: Rollout, wanted: Mapping[str, float], policy: Policy) -> dict[str, float]:
    """The challengers' wanted shares, what they have above the floor cut in proportion to the next step of the ramp."""
    aim = {one.arm: wanted[one.arm] for one in rollout.inside}
    most = next((step for step in policy.shares if step > rollout.share + 1e-9), 1.0)
    floor = floor_of(rollout, policy)
    total, least = math.fsum(aim.values()), floor * len(aim)
    if total <= max(most, least):
        return aim
    part = max(0.0, most - least) / (total - least)
    return {arm: floor + part * (share - floor) for arm, share in aim.items()}


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


def make_way(rollout: Rollout, proof: Standing, month: str) -> Decision:
    """What becomes of an open rollout when the challenger of a later month is ready: it is superseded, or the newer one waits.

    It waits for a pause to end, and for a rollout that is half-way to a promotion (in logarithms): starting again
    with every month would throw away evidence that users have paid for. Where it fails: the newer challenger may be the
    better one, and loses a month; `max_days` bounds that. Raises `Conflict` when closed.
    """
    require(rollout, "supersede", OPEN)
    if rollout.status == "paused":
        return _hold(rollout, f"paused; the challenger of {month} waits")
    best = max((proof.verdict(one.arm) for one in rollout.inside), key=lambda verdict: verdict.e_promote)
    if best.e_promote >= best.threshold**0.5:
        return _hold(rollout, f"close to a promotion, so the challenger of {month} waits; {best.reason}")
    return Decision("inconclusive", 0.0, f"superseded by the challenger of {month}; {best.reason}")


def _hold(rollout: Rollout, reason: str, cause: Cause | None = None) -> Decision:
    return Decision("hold", rollout.share, reason, cause)
