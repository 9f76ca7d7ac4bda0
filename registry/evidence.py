"""Is the challenger better? An always-valid test on feedback: look after every event, stop whenever you like.

Knows nothing of rollouts, shares to come, versions or databases: counted rewards in, a verdict out.

**What is estimated.** Of each counted reward Y in [0, 1], whose unit met the challenger with propensity p (A = 1) or the
champion with 1 - p (A = 0), we form X = (Y - m) (A/p - (1 - A)/(1 - p)). The baseline m uses past rewards only, so
E[X | past] is the lift, the challenger's mean reward less the champion's, whatever p was and however it moved
(inverse-propensity weighting with a predictable control variate, Waudby-Smith et al. 2022).

**How it is tested.** By betting (Waudby-Smith & Ramdas 2024): if the lift is at most θ, then the wealth
K(θ) = ∏ (1 + λ (X - θ)) with bets λ >= 0 set by the past is a nonnegative supermartingale that starts at 1, so by Ville's
inequality it ever reaches 1/a with probability at most a, however often one looks (Ramdas et al. 2023). `e_promote` is K(0);
`e_abort` is the mirror, for "the lift is at least 0". Bettor j bets what would grow fastest if the lift were `LIFTS[j]`
(lift / variance of X, the variance predicted from the past, the bet cut so that wealth stays positive); K is the weighted
mean of their wealths, valid like each of them. For rewards of 0 or 1 that bet is the likelihood ratio of the arm given the
reward, so what is lost against an oracle is the mixture and the estimate of m alone.

**What alpha means.** The chance that *any* verdict ever given is wrong: each side decides at 2/alpha, so two equal arms end
in a promotion or an abort with probability at most alpha together. The interval is the confidence sequence of the
same bets: it holds the lift at all times at once with probability 1 - alpha, and it excludes 0 exactly when the test decides.

**Rules.** A unit counts once: assignment is sticky, so only its first visit is a fresh draw, and no unit can vote twice.
Rewards are taken in order of arrival. Propensities of 0 or 1 (no draw was made) and other arms (pinned requests) are ignored.
Closing is the caller's: a verdict that was acted on stays, whatever arrives later.

**Where it fails.** Feedback that is missing or late for one arm more than for the other at equal quality (an arm that answers
too slowly to be rated, say) biases the lift, and nothing here can see it. The verdict speaks of the units who gave feedback,
and of those whose answer failed: `monitoring` hands a failure over as a reward of 0. As few units give feedback and every
failure is known, failures weigh more in the verdict than in the traffic.

- Ramdas, Grünwald, Vovk, Shafer (2023), Game-theoretic statistics and safe anytime-valid inference.
- Waudby-Smith, Ramdas (2024), Estimating means of bounded random variables by betting.
- Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro (2022), Anytime-valid off-policy inference for contextual bandits.
- Ville (1939), Étude critique de la notion de collectif.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from evermoe.errors import BadInput
from registry.assignment import CHALLENGER, CHAMPION

LIFTS = (0.05, 0.1, 0.2, 0.35)  # what the bettors hope for
WEIGHTS = (0.1, 0.3, 0.3, 0.3)  # their shares of the first unit of wealth; tuned for lifts of .1 to .3 in few events
LARGEST_BET = 0.6  # of what would risk all wealth on one reward
ARM_PRIOR = 6.0  # rewards' worth of trust in "both arms are alike" when the baseline is set
SPREAD_PRIOR = 10.0  # rewards' worth of trust in "rewards are 0 or 1" when their variance is predicted

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class _Counted:
    """One counted reward as the bettors see it. `low` and `high` bound what `x` could have been before it was seen."""

    at: datetime
    challenger: bool
    reward: float
    x: float
    low: float
    high: float
    precision: float  # one over the predicted variance of x
    weight: float  # p (1 - p), which is what an x tells when rewards vary alike


class Evidence:
    """Rewards of one rollout and what they prove so far."""

    def __init__(self, alpha: float = 0.05) -> None:
        if not 0.0 < alpha < 1.0:
            raise BadInput(f"alpha is {alpha}; it must lie between 0 and 1, 0.05 say")
        self.alpha = alpha
        self.threshold = 2.0 / alpha
        self.ignored = 0
        self._counted: list[_Counted] = []
        self._units: set[str] = set()
        self._sums = [0.0, 0.0]  # of rewards: champion, challenger
        self._counts = [0, 0]
        self._squares = 0.0  # of rewards about the baselines they were predicted with

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
        baseline, variance = self._predicted(p)
        self._counted.append(
            _Counted(
                at=at,
                challenger=is_challenger,
                reward=reward,
                x=(reward - baseline) / (p if is_challenger else p - 1.0),
                low=-max(baseline / p, (1.0 - baseline) / (1.0 - p)),
                high=max((1.0 - baseline) / p, baseline / (1.0 - p)),
                precision=p * (1.0 - p) / variance,
                weight=p * (1.0 - p),
            )
        )
        self._sums[is_challenger] += reward
        self._counts[is_challenger] += 1
        self._squares += (reward - baseline) ** 2
        return True

    def verdict(self, now: datetime) -> Verdict:
        """What the rewards that had arrived by `now` prove."""
        seen = self._counted
        if seen and seen[-1].at > now:
            seen = seen[: next(i for i, one in enumerate(seen) if one.at > now)]
        bets = _Bets(seen)
        e_promote, e_abort = _exp(bets.log_wealth(0.0)), _exp(bets.mirror().log_wealth(0.0))
        decision: Literal["promote", "abort", "continue"] = "continue"
        if max(e_promote, e_abort) >= self.threshold:
            decision = "promote" if e_promote >= e_abort else "abort"
        counts = {CHAMPION: sum(not one.challenger for one in seen), CHALLENGER: sum(one.challenger for one in seen)}
        sums = {
            CHAMPION: math.fsum(one.reward for one in seen if not one.challenger),
            CHALLENGER: math.fsum(one.reward for one in seen if one.challenger),
        }
        means = {arm: sums[arm] / counts[arm] if counts[arm] else None for arm in counts}
        total = math.fsum(one.weight for one in seen)
        lift = math.fsum(one.weight * one.x for one in seen) / total if total else 0.0
        interval = self._interval(bets)
        return Verdict(
            decision=decision,
            lift=min(max(lift, -1.0), 1.0),
            interval=interval,
            e_promote=e_promote,
            e_abort=e_abort,
            threshold=self.threshold,
            rewards=counts,
            means=means,
            reason=_reason(decision, e_promote, e_abort, self.threshold, counts, means, interval),
            at=now,
        )

    def trajectory(self) -> Trajectory:
        """Both e-values after each counted reward: what one would have seen by looking every time."""
        bets = _Bets(self._counted)
        return Trajectory(e_promote=np.exp(bets.log_path(0.0)), e_abort=np.exp(bets.mirror().log_path(0.0)))

    def _predicted(self, p: float) -> tuple[float, float]:
        """The baseline with which x varies least, and the variance of a reward about it, both from past rewards alone."""
        count = self._counts[0] + self._counts[1]
        pooled = (self._sums[0] + self._sums[1] + 1.0) / (count + 2.0)
        champion, challenger = (
            (total + ARM_PRIOR * pooled) / (n + ARM_PRIOR) for total, n in zip(self._sums, self._counts, strict=True)
        )
        baseline = (1.0 - p) * challenger + p * champion
        prior = SPREAD_PRIOR * baseline * (1.0 - baseline)
        return baseline, (self._squares + prior) / (count + SPREAD_PRIOR)

    def _interval(self, bets: _Bets) -> tuple[float, float]:
        """All lifts that neither bet has refuted: wealth only falls as θ rises, so each end is found by halving."""
        limit = math.log(self.threshold)
        return _lowest_lift(bets, limit), -_lowest_lift(bets.mirror(), limit)


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
    def at(self) -> datetime: ...
    @property
    def agreed(self) -> bool: ...


def weigh(rewards: Iterable[Rewarded], alpha: float, now: datetime) -> Verdict:
    """The verdict on rewards in order of arrival, those after `now` left out.

    A reward for an answer that both arms give is left out: there the arms are known to be equal, so it is noise, and a small
    lift over all requests is a large one where they differ. What both would answer does not depend on which one did, so the
    test stays valid; it now speaks of the requests on which the arms differ, and the sign of the lift is the same.
    Source: triggered analysis, Kohavi, Tang, Xu, Trustworthy Online Controlled Experiments (2020), chapter 20.
    """
    evidence, agreed = Evidence(alpha), 0
    for one in rewards:
        if one.at > now:
            continue
        if one.agreed:
            agreed += 1
        else:
            evidence.observe(one.arm, one.reward, one.propensity, one.unit, one.at)
    verdict = evidence.verdict(now)
    if not agreed:
        return verdict
    return replace(verdict, agreed=agreed, reason=f"{verdict.reason}; {agreed} more where both answer alike")


class _Bets:
    """The bets that the lift is more than θ, over a run of counted rewards, as arrays: T rewards, J bettors."""

    def __init__(self, counted: list[_Counted]) -> None:
        self.x_T: Floats = np.array([one.x for one in counted])
        self.low_T: Floats = np.array([one.low for one in counted])
        self.high_T: Floats = np.array([one.high for one in counted])
        self.wanted_TJ: Floats = np.array([one.precision for one in counted])[:, None] * np.array(LIFTS)

    def mirror(self) -> _Bets:
        """The same bets with the arms' roles swapped: that the lift is less than -θ."""
        mirrored = _Bets([])
        mirrored.x_T, mirrored.low_T, mirrored.high_T = -self.x_T, -self.high_T, -self.low_T
        mirrored.wanted_TJ = self.wanted_TJ
        return mirrored

    def log_path(self, theta: float) -> Floats:
        """Log wealth after each reward if bets are taken against "the lift is at most θ"."""
        largest_T = LARGEST_BET / (max(theta, 0.0) - self.low_T)  # low <= -1: at least one of p, 1 - p is that small
        gains_TJ = np.log1p(np.minimum(self.wanted_TJ, largest_T[:, None]) * (self.x_T - theta)[:, None])
        path: Floats = np.logaddexp.reduce(np.cumsum(gains_TJ, axis=0) + np.log(WEIGHTS), axis=1)
        return path

    def log_wealth(self, theta: float) -> float:
        """Log wealth after all rewards."""
        largest_T = LARGEST_BET / (max(theta, 0.0) - self.low_T)
        gains_TJ = np.log1p(np.minimum(self.wanted_TJ, largest_T[:, None]) * (self.x_T - theta)[:, None])
        return float(np.logaddexp.reduce(gains_TJ.sum(axis=0) + np.log(WEIGHTS)))


def _lowest_lift(bets: _Bets, limit: float) -> float:
    """The smallest θ whose log wealth has not reached `limit`, to a thousandth, never too high."""
    if bets.log_wealth(-1.0) < limit:
        return -1.0
    refuted, possible = -1.0, 1.0
    if bets.log_wealth(0.0) >= limit:
        refuted = 0.0
    else:
        possible = 0.0
    while possible - refuted > 1e-3:
        middle = (refuted + possible) / 2.0
        if bets.log_wealth(middle) >= limit:
            refuted = middle
        else:
            possible = middle
    return refuted


def _exp(log: float) -> float:
    """An e-value that stays a number one can store."""
    return math.exp(min(log, 700.0))


def _reason(
    decision: str,
    e_promote: float,
    e_abort: float,
    threshold: float,
    counts: dict[str, int],
    means: dict[str, float | None],
    interval: tuple[float, float],
) -> str:
    """One line for the console, MLflow and the audit."""
    challenger, champion = (
        f"{arm} {mean:.3f} over {counts[arm]}" if (mean := means[arm]) is not None else f"{arm} without rewards"
        for arm in (CHALLENGER, CHAMPION)
    )
    seen = f"{challenger}, {champion}; lift in [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    if decision == "promote":
        return f"better: e-value {e_promote:.1f} reached {threshold:g} ({seen})"
    if decision == "abort":
        return f"worse: e-value {e_abort:.1f} reached {threshold:g} ({seen})"
    return f"undecided: e-values {e_promote:.2f} for and {e_abort:.2f} against, {threshold:g} decides ({seen})"
