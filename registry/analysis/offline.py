"""What another policy would have been worth, judged on the log of a rollout by its propensities, before it meets a user.

Pure: logged rewards and a policy in, an estimate with its interval out. Knows no database.

The log is lived again in order of time. Where a unit asks, the policy's shares of that moment, q, are set against those that the
log had, p; when its reward arrives, from arm a, the policy is shown it with probability c q(a) / p(a), where c is the least
p / q of any arm: so it sees what it would have seen, in a part c of the traffic, and climbs later than it would live. Each
reward gives one estimate:

- inverse propensity: w = q(a) / p(a) times the reward, right whatever rewards look like, and wild where w is large;
- doubly robust: what the arms' means before it predict for q, and w times what this reward differs from its arm's. As right, and
  calmer.

The interval is the doubly robust mean and 1.96 standard errors: a normal approximation, 95% with hundreds of rewards, less sure
with few. `effective` is how many rewards of the policy's own the log is worth: of n rewards, n² / Σ q² / p over rewards and arms,
which counts an arm that the log hardly met whether or not a unit met it. Where that is small the log says little of this policy,
and `enough` is false: then believe nothing here, and let the log grow at shares nearer to the policy's.

**Support.** From the moment on at which the policy sends units to an arm that the log had put out, nothing in the log
says how they would have fared, nor what the policy would have learned: it is judged up to there (`until`), and no further.

Where it fails. It speaks of units who gave feedback on answers in which the arms differ, the first of each. A policy that depends
on more than rewards (guardrails, people) is judged without them.

- Dudík, Erhan, Langford, Li (2012), Sample-efficient nonstationary policy evaluation for contextual bandits.
- Li, Chu, Langford, Wang (2011), Unbiased offline evaluation of contextual-bandit-based news article recommendation algorithms.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, stdev
from typing import Protocol

from evermoe.errors import NotReady
from registry.analysis.outlook import Weighed, arms_of, outlook, standing_of
from registry.assignment import CHAMPION, is_drawn, shares_at, whole
from registry.evidence import Rewarded
from registry.rollout import Policy, Rollout, new_rollout, transition

FEWEST_EFFECTIVE = 50.0
FEWEST_REWARDS = 20
Event = tuple[datetime, bool, int]
"""A moment, whether a reward arrives in it or a unit asks, and whose."""


class Chooser(Protocol):
    """A policy at work: the shares of the arms at a moment, and what it learns from a reward."""

    def shares(self, now: datetime) -> Mapping[str, float]:
        """Of units that ask at `now`, the champion's among them; they add up to 1. After the end one arm has all."""
        ...

    def see(self, reward: Rewarded, shares: Mapping[str, float]) -> None:
        """Learn a reward whose unit asked at these shares."""
        ...

    @property
    def outcome(self) -> str:
        """How it stands, in words."""
        ...


class Live:
    """The policy as rollouts live it (`deciding.decide` on what `best_arm` proves), looking every `every`: the ramp of one
    challenger, or the shares of several.

    It begins as `trial` did, with its salt, so that the policy that made a log takes the same steps on it again.
    """

    def __init__(self, policy: Policy, trial: Rollout, every: timedelta = timedelta(hours=1)) -> None:
        self.policy, self.every = policy, every
        versions = [one.version for one in trial.challengers]
        begin = trial.opened_at
        self._rollout = new_rollout(trial.id, trial.month, trial.champion, versions, trial.salt, policy, begin)
        self._arms = arms_of(self._rollout, policy)
        self._told_at: list[datetime] = []
        self._fresh, self._next = False, begin + every

    def shares(self, now: datetime) -> Mapping[str, float]:
        """The shares after the looks up to `now`. A look at nothing new changes nothing but that time has passed."""
        if now >= self._next:
            self._look(now)
            self._next = now + self.every
        if self._rollout.open:
            return whole(self._rollout.shares)
        promoted = self._rollout.status == "promoted"
        serving = self._rollout.inside[0].arm if promoted else CHAMPION
        return {arm: float(arm == serving) for arm in self._arms.arms}

    def see(self, reward: Rewarded, shares: Mapping[str, float]) -> None:
        if self._arms.observe(reward.arm, reward.reward, shares, reward.unit, reward.at):
            self._told_at.append(reward.at)
        self._fresh = True

    @property
    def outcome(self) -> str:
        if not self._rollout.open:
            return f"{self._rollout.status}: {self._rollout.reason}"
        if not self._rollout.several:
            return f"still running at a share of {self._rollout.share:g}"
        dealt = (
            f"version {one.version} {'out' if one.out else f'at {one.share:.1%}'}" for one in self._rollout.challengers
        )
        return f"still running: {', '.join(dealt)}"

    def _look(self, now: datetime) -> None:
        spent = now - self._rollout.opened_at >= timedelta(days=self.policy.max_days)
        if not self._rollout.open or not (self._fresh or spent):
            return
        self._fresh = False
        proof = Weighed(standing_of(self._rollout, self._arms, now), tuple(self._told_at))
        self._rollout = transition(self._rollout, outlook(self._rollout, proof, self.policy, now).next, now)


class Fixed:
    """Shares that never move: `share` of the units for the challengers of a trial, alike for each."""

    def __init__(self, share: float, trial: Rollout) -> None:
        self._share = share
        each = share / len(trial.challengers)
        self._shares = whole({one.arm: each for one in trial.challengers})

    def shares(self, now: datetime) -> Mapping[str, float]:
        return self._shares

    def see(self, reward: Rewarded, shares: Mapping[str, float]) -> None:
        """Nothing to learn."""

    @property
    def outcome(self) -> str:
        alike = "" if len(self._shares) == 2 else ", alike for each version"
        return f"a share of {self._share:g} throughout{alike}"


@dataclass(frozen=True)
class Replayed:
    """What a policy would have been worth: mean reward of a unit, with 95% interval, beside what the log's own was."""

    rewards: int
    """Judged, by the arm that was met in `met`."""
    met: Mapping[str, int]
    shown: int
    logged: float
    value: float
    low: float
    high: float
    inverse_propensity: float
    effective: float
    enough: bool
    outcome: str
    until: datetime | None = None
    """From when on the log cannot tell, because it had put out `unmet`; None where it can to its end."""
    unmet: tuple[str, ...] = ()
    beyond: int = 0
    """Rewards of units who asked after that."""


@dataclass(frozen=True)
class _Choice:
    """What the policy and the log would do with a unit that asks at a moment: shares of all arms."""

    policy: Mapping[str, float]
    log: Mapping[str, float]

    @property
    def unmet(self) -> tuple[str, ...]:
        """The arms to which the policy sends units and the log none."""
        return tuple(arm for arm, share in self.policy.items() if share > 0.0 and not self.log.get(arm, 0.0) > 0.0)

    @property
    def cost(self) -> float:
        """The mean square of the weights here: 1 where policy and log agree."""
        return math.fsum(share**2 / self.log[arm] for arm, share in self.policy.items() if share > 0.0)

    @property
    def part(self) -> float:
        """The part of the traffic in which the log can be thinned to what the policy would have met."""
        return min(self.log[arm] / share for arm, share in self.policy.items() if share > 0.0)

    def weight(self, arm: str) -> float:
        return self.policy.get(arm, 0.0) / self.log[arm]


def replay(
    rewards: Iterable[Rewarded],
    chooser: Chooser,
    seed: int = 0,
    walk: Callable[[Sequence[Event]], Iterable[Event]] = iter,
) -> Replayed:
    """Live the log again under a policy; `walk` may show how far it is. Raises `NotReady` where it has too few rewards to say
    anything."""
    counted = first_of_units(rewards)
    _require(len(counted), "gave feedback in this rollout")
    draw, means = random.Random(seed), _Means()
    choices = dict[int, _Choice]()
    plain, robust, costs, shown = list[float](), list[float](), list[float](), 0
    until, unmet = None, tuple[str, ...]()
    for now, arrived, number in walk(_in_order_of_time(counted)):
        one = counted[number]
        if not arrived:
            if until is None:
                choice = _Choice(chooser.shares(now), shares_at(one.arm, one.propensity, one.shares))
                if choice.unmet:
                    until, unmet = now, choice.unmet
                else:
                    choices[number] = choice
            continue
        if (asked := choices.get(number)) is None:
            continue
        weight = asked.weight(one.arm)
        plain.append(weight * one.reward)
        robust.append(means.at(asked.policy) + weight * (one.reward - means.of(one.arm)))
        costs.append(asked.cost)
        means.add(one.arm, one.reward)
        if 0.0 < asked.policy[one.arm] < 1.0 and draw.random() < asked.part * weight:
            chooser.see(one, asked.policy)
            shown += 1
    judged = [counted[number] for number in choices]
    _require(len(judged), f"gave feedback before the log put out {', '.join(unmet)}, which this policy keeps in")
    value, half = fmean(robust), 1.96 * stdev(robust) / math.sqrt(len(robust))
    effective = len(costs) ** 2 / math.fsum(costs)
    return Replayed(
        rewards=len(judged),
        met=Counter(one.arm for one in judged),
        shown=shown,
        logged=fmean(one.reward for one in judged),
        value=value,
        low=value - half,
        high=value + half,
        inverse_propensity=fmean(plain),
        effective=effective,
        enough=effective >= FEWEST_EFFECTIVE,
        outcome=chooser.outcome,
        until=until,
        unmet=unmet,
        beyond=len(counted) - len(judged),
    )


def first_of_units(rewards: Iterable[Rewarded]) -> list[Rewarded]:
    """What evidence would count: the first reward of each unit that was drawn into an arm."""
    found: dict[str, Rewarded] = {}
    for one in rewards:
        if is_drawn(one.arm) and 0.0 < one.propensity < 1.0 and not one.agreed:
            found.setdefault(one.unit, one)
    return list(found.values())


def _in_order_of_time(counted: Sequence[Rewarded]) -> list[Event]:
    """When each unit asked, and when its reward arrived; who asks at the moment of an arrival does not know of it."""
    asked = [(one.requested_at, False, number) for number, one in enumerate(counted)]
    return sorted(asked + [(max(one.at, one.requested_at), True, number) for number, one in enumerate(counted)])


def _require(count: int, what: str) -> None:
    if count < FEWEST_REWARDS:
        raise NotReady(f"{count} units {what}; {FEWEST_REWARDS} are the least to judge by")


class _Means:
    """The arms' mean rewards so far, each with one reward's worth of trust in one half."""

    def __init__(self) -> None:
        self._sums, self._counts = dict[str, float](), dict[str, int]()

    def of(self, arm: str) -> float:
        return (0.5 + self._sums.get(arm, 0.0)) / (1 + self._counts.get(arm, 0))

    def at(self, shares: Mapping[str, float]) -> float:
        return math.fsum(share * self.of(arm) for arm, share in shares.items())

    def add(self, arm: str, reward: float) -> None:
        self._sums[arm] = self._sums.get(arm, 0.0) + reward
        self._counts[arm] = self._counts.get(arm, 0) + 1
