"""Is the challenger better? An always-valid test on feedback: look after every event, stop whenever you like.

Knows nothing of rollouts, shares to come, versions or databases: counted rewards in, a verdict out. The mathematics, with its
sources, is in `betting.py`; here is what counts and when a side decides.

**What alpha means.** The chance that *any* verdict ever given is wrong: each side decides at 2/alpha, so two equal arms end
in a promotion or an abort with probability at most alpha together. `e_promote` is the wealth of bets against "the lift is at
most 0"; `e_abort` is the mirror, against "the lift is at least 0". The interval is the confidence sequence of the same bets:
it holds the lift at all times at once with probability 1 - alpha, and it excludes 0 exactly when the test decides.

**Rules.** A unit counts once: assignment is sticky, so only its first visit is a fresh draw, and no unit can vote twice.
Rewards are taken in order of arrival. Propensities of 0 or 1 (no draw was made) and other arms (pinned requests) are ignored.
Closing is the caller's: a verdict that was acted on stays, whatever arrives later.

**Where it fails.** Feedback that is missing or late for one arm more than for the other at equal quality (an arm that answers
too slowly to be rated, say) biases the lift, and nothing here can see it. The verdict speaks of the units who gave feedback,
and of those whose answer failed: `monitoring` hands a failure over as a reward of 0. As few units give feedback and every
failure is known, failures weigh more in the verdict than in the traffic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np

from evermoe.errors import BadInput
from registry.assignment import CHALLENGER, CHAMPION
from registry.betting import Floats, Outcome, log_path, log_wealth, lowest_lift, outcomes_of


@dataclass(frozen=True)
class Verdict:
    """What the rewards that had arrived by `at` say. `threshold` is the e-value at which a side decides (2/alpha)."""

    decision: Literal["promote", "abort", "continue"]
    lift: float
    interval: tuple[float, float]
    e_promote: float
    e_abort: float
    threshold: float
    rewards: dict[str, int]
    means: dict[str, float | None]
    reason: str
    at: datetime
    agreed: int = 0  # rewards left out because both arms answer alike there


@dataclass(frozen=True)
class Trajectory:
    """Both e-values after each counted reward, oldest first."""

    e_promote: Floats
    e_abort: Floats


class Evidence:
    """Rewards of one rollout and what they prove so far."""

    def __init__(self, alpha: float = 0.05, names: tuple[str, str] = (CHAMPION, CHALLENGER)) -> None:
        """`names` are how a verdict's reason calls the two arms."""
        if not 0.0 < alpha < 1.0:
            raise BadInput(f"alpha is {alpha}; it must lie between 0 and 1, 0.05 say")
        self.alpha = alpha
        self._names = names
        self.threshold = 2.0 / alpha
        self.ignored = 0
        self._at: list[datetime] = []
        self._challenger: list[bool] = []
        self._reward: list[float] = []
        self._share: list[float] = []  # the challenger's propensity when the unit was drawn
        self._units: set[str] = set()

    def observe(self, arm: str, reward: float, propensity: float, unit: str, at: datetime) -> bool:
        """Take one reward, in order of arrival. `propensity` is the probability of the arm that *was* assigned.

        Returns whether it counted (see the rules above). Raises `BadInput` when the reward is outside [0, 1].
        """
        if not 0.0 <= reward <= 1.0:
            raise BadInput(f"reward of unit {unit!r} is {reward}; it must lie between 0 and 1")
        if arm not in (CHAMPION, CHALLENGER) or not 0.0 < propensity < 1.0 or unit in self._units:
            self.ignored += 1
            return False
        self._units.add(unit)
        is_challenger = arm == CHALLENGER
        p = propensity if is_challenger else 1.0 - propensity
        self._at.append(at)
        self._challenger.append(is_challenger)
        self._reward.append(reward)
        self._share.append(p)
        return True

    def verdict(self, now: datetime) -> Verdict:
        """What the rewards that had arrived by `now` prove."""
        count = len(self._at)
        if count and self._at[-1] > now:
            count = next(i for i, at in enumerate(self._at) if at > now)
        is_challenger, reward, share = self._columns(count)
        outcomes = outcomes_of(1.0 * is_challenger, reward, share)
        e_promote, e_abort = _exp(log_wealth(outcomes)), _exp(log_wealth(outcomes.mirror()))
        decision: Literal["promote", "abort", "continue"] = "continue"
        if max(e_promote, e_abort) >= self.threshold:
            decision = "promote" if e_promote >= e_abort else "abort"
        of_arm = {CHAMPION: reward[~is_challenger], CHALLENGER: reward[is_challenger]}
        counts = {arm: len(rewards) for arm, rewards in of_arm.items()}
        means = {arm: float(rewards.mean()) if len(rewards) else None for arm, rewards in of_arm.items()}
        weights = share * (1.0 - share)  # what an x tells when rewards vary alike
        lift = float(weights @ outcomes.x / weights.sum()) if count else 0.0
        interval = self._interval(outcomes)
        return Verdict(
            decision=decision,
            lift=min(max(lift, -1.0), 1.0),
            interval=interval,
            e_promote=e_promote,
            e_abort=e_abort,
            threshold=self.threshold,
            rewards=counts,
            means=means,
            reason=_reason(self._names, decision, e_promote, e_abort, self.threshold, counts, means, interval),
            at=now,
        )

    def trajectory(self) -> Trajectory:
        """Both e-values after each counted reward: what one would have seen by looking every time."""
        is_challenger, reward, share = self._columns()
        outcomes = outcomes_of(1.0 * is_challenger, reward, share)
        return Trajectory(e_promote=np.exp(log_path(outcomes)), e_abort=np.exp(log_path(outcomes.mirror())))

    def _columns(self, count: int | None = None) -> tuple[np.ndarray, Floats, Floats]:
        """Of the first so many counted rewards: whether each is the challenger's, the reward, the challenger's propensity."""
        return (
            np.array(self._challenger[:count], dtype=bool),
            np.array(self._reward[:count]),
            np.array(self._share[:count]),
        )

    def _interval(self, outcomes: Outcome) -> tuple[float, float]:
        """All lifts that neither bet has refuted."""
        limit = math.log(self.threshold)
        return lowest_lift(outcomes, limit), -lowest_lift(outcomes.mirror(), limit)


class Rewarded(Protocol):
    """One counted feedback; `monitoring.events.Reward` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def reward(self) -> float: ...
    @property
    def propensity(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def unit_given(self) -> bool: ...
    @property
    def api_key(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def agreed(self) -> bool: ...
    @property
    def requested_at(self) -> datetime: ...
    @property
    def shares(self) -> Mapping[str, float] | None: ...


def _exp(log: float) -> float:
    """An e-value that stays a number one can store."""
    return math.exp(min(log, 700.0))


def _reason(
    names: tuple[str, str],
    decision: str,
    e_promote: float,
    e_abort: float,
    threshold: float,
    counts: dict[str, int],
    means: dict[str, float | None],
    interval: tuple[float, float],
) -> str:
    """One line for the console, MLflow and the audit."""
    champion, challenger = (
        f"{name} {mean:.3f} over {counts[arm]}" if (mean := means[arm]) is not None else f"{name} without rewards"
        for name, arm in zip(names, (CHAMPION, CHALLENGER), strict=True)
    )
    seen = f"{challenger}, {champion}; lift in [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    if decision == "promote":
        return f"better: e-value {e_promote:.1f} reached {threshold:g} ({seen})"
    if decision == "abort":
        return f"worse: e-value {e_abort:.1f} reached {threshold:g} ({seen})"
    return f"undecided: e-values {e_promote:.2f} for and {e_abort:.2f} against, {threshold:g} decides ({seen})"
