"""The mathematics of always-valid tests: bets on the lift of one arm over another, and on the counts of two arms.

Numbers or arrays in, numbers or arrays out: everything here works elementwise, so one rollout or ten thousand are the same code.
Knows nothing of rollouts, units, times or verdicts; `evidence.py` says what is counted and when a side decides.

**The lift.** Of a reward Y in [0, 1], whose unit met the challenger with propensity p (A = 1) or the champion with 1 - p
(A = 0), `Past.outcome` forms X = (Y - m) (A/p - (1 - A)/(1 - p)). The baseline m uses past rewards only, so E[X | past] is the
lift, the challenger's mean less the champion's, whatever p was and however it moved (inverse-propensity weighting with a
predictable control variate, Waudby-Smith et al. 2022). m is where X varies least: (1 - p) challenger's mean + p champion's.

**The bets.** If the lift is at most θ, the wealth K(θ) = ∏ (1 + λ (X - θ)) with bets λ >= 0 set by the past is a nonnegative
supermartingale that starts at 1, so by Ville's inequality it ever reaches 1/a with probability at most a, however often one
looks (Ramdas et al. 2023). Bettor j bets what would grow fastest if the lift were `LIFTS[j]` (lift / variance of X, the variance
predicted from the past, the bet cut so that wealth stays positive; Waudby-Smith & Ramdas 2024); K is the weighted mean of
their wealths, valid like each of them. For rewards of 0 or 1 such a bet is nearly the likelihood ratio of the arm given the
reward, so what is lost against a test that knew the lift is the mixture and the estimate of m alone.

**Why these lifts.** One bettor does well from half to twice its lift, so four in steps of 2.5 cover 2 to 35 points. A bettor
with a share w of the first wealth must earn log(1/w) more; the weights give the large lifts, which must be found in few
rewards, the larger share. `benchmarks/rollout_errors.py` measures what comes of it.

**The counts.** `log_ratio_of_counts` bets on which arm a unit meets: a fair draw with probability p makes each factor's mean 1.

- Ramdas, Grünwald, Vovk, Shafer (2023), Game-theoretic statistics and safe anytime-valid inference.
- Waudby-Smith, Ramdas (2024), Estimating means of bounded random variables by betting.
- Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro (2022), Anytime-valid off-policy inference for contextual bandits.
- Lindon, Malek (2022), Anytime-valid inference for multinomial count data (the sample-ratio test in mixture form).
- Ville (1939), Étude critique de la notion de collectif.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIFTS = np.array([0.02, 0.05, 0.12, 0.3])  # what the bettors hope for
WEIGHTS = np.array([0.17, 0.2, 0.25, 0.38])  # their shares of the first unit of wealth
LARGEST_BET = 0.6  # of what would risk all wealth on one reward
ARM_PRIOR = 6.0  # rewards' worth of trust in "both arms are alike" when the baseline is set
SPREAD_PRIOR = 10.0  # rewards' worth of trust in "rewards are 0 or 1" when their variance is predicted

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a reward says of the lift, as the bettors see it; each field a number, or an array of any one shape."""

    x: Any
    low: Any
    """The least that `x` could have been, known before it was seen; at most -1, because p or 1 - p is that small."""
    high: Any
    precision: Any
    """One over the predicted variance of `x`."""

    def mirror(self) -> Outcome:
        """The same reward with the arms' roles swapped."""
        return Outcome(-self.x, -self.high, -self.low, self.precision)

    def log_gains(self, theta: float = 0.0) -> Floats:
        """What each bettor earns here, in logarithms, betting against "the lift is at most θ"; the bettors on a last axis."""
        largest = LARGEST_BET / (max(theta, 0.0) - np.asarray(self.low))
        bets = np.minimum(np.asarray(self.precision)[..., None] * LIFTS, largest[..., None])
        gains: Floats = np.log1p(bets * (np.asarray(self.x) - theta)[..., None])
        return gains


@dataclass
class Past:
    """What is known of the two arms before the next reward: all that a bet may depend on. Numbers, or arrays of one shape."""

    count_champion: Any = 0.0
    count_challenger: Any = 0.0
    sum_champion: Any = 0.0
    sum_challenger: Any = 0.0
    squares: Any = 0.0
    """Of rewards about the baselines that they were predicted with."""

    def baseline(self, share: Any) -> Any:
        """The baseline with which X varies least at this share."""
        count = self.count_champion + self.count_challenger
        pooled = ARM_PRIOR * (self.sum_champion + self.sum_challenger + 1.0) / (count + 2.0)
        champion = (self.sum_champion + pooled) / (self.count_champion + ARM_PRIOR)
        challenger = (self.sum_challenger + pooled) / (self.count_challenger + ARM_PRIOR)
        return (1.0 - share) * challenger + share * champion

    def spread(self, baseline: Any) -> Any:
        """The variance of a reward about the baseline."""
        prior = SPREAD_PRIOR * baseline * (1.0 - baseline)
        return (self.squares + prior) / (self.count_champion + self.count_challenger + SPREAD_PRIOR)

    def outcome(self, challenger: Any, reward: Any, share: Any, seen: Any = 1.0) -> Outcome:
        """Take the next reward of an arm (`challenger` is 1 or 0), drawn at this challenger's share, and say what it tells.

        `seen` is 0 where, in an array of rollouts, this one has no reward now: nothing is learned there, and `x` is 0.
        """
        m = self.baseline(share)
        variance = self.spread(m)
        champion = 1.0 - challenger
        self.count_champion = self.count_champion + seen * champion
        self.count_challenger = self.count_challenger + seen * challenger
        self.sum_champion = self.sum_champion + seen * champion * reward
        self.sum_challenger = self.sum_challenger + seen * challenger * reward
        self.squares = self.squares + seen * (reward - m) ** 2
        rest = 1.0 - share
        return Outcome(
            x=seen * (reward - m) * (challenger / share - champion / rest),
            low=-np.maximum(m / share, (1.0 - m) / rest),
            high=np.maximum((1.0 - m) / share, m / rest),
            precision=share * rest / variance,
        )


def outcomes_of(challenger_T: Floats, reward_T: Floats, share_T: Floats) -> Outcome:
    """What each of a run of T rewards told when it came: `Past.outcome`, all at once."""
    past = Past(
        count_champion=_before(1.0 - challenger_T),
        count_challenger=_before(challenger_T),
        sum_champion=_before((1.0 - challenger_T) * reward_T),
        sum_challenger=_before(challenger_T * reward_T),
    )
    past.squares = _before((reward_T - past.baseline(share_T)) ** 2)
    return past.outcome(challenger_T, reward_T, share_T)


def _before(values_T: Floats) -> Floats:
    """The sum of all values before each."""
    sums: Floats = np.cumsum(values_T) - values_T
    return sums


def mixed(log_wealths: Floats) -> Any:
    """Log of the weighted mean of the bettors' wealths (last axis), from the logs of what each has earned."""
    return np.logaddexp.reduce(log_wealths + np.log(WEIGHTS), axis=-1)


def log_path(outcomes: Outcome, theta: float = 0.0) -> Floats:
    """Log wealth after each of a run of rewards."""
    path: Floats = mixed(np.cumsum(outcomes.log_gains(theta), axis=0))
    return path


def log_wealth(outcomes: Outcome, theta: float = 0.0) -> float:
    """Log wealth after all of a run of rewards, against "the lift is at most θ"."""
    return float(mixed(outcomes.log_gains(theta).sum(axis=0)))


def lowest_lift(outcomes: Outcome, limit: float) -> float:
    """The smallest θ whose log wealth has not reached `limit`, to a thousandth, never too high.

    Wealth only falls as θ rises, so halving finds it: all lifts above are what the bets have not refuted.
    """
    if log_wealth(outcomes, -1.0) < limit:
        return -1.0
    refuted, possible = -1.0, 1.0
    if log_wealth(outcomes, 0.0) >= limit:
        refuted = 0.0
    else:
        possible = 0.0
    while possible - refuted > 1e-3:
        middle = (refuted + possible) / 2.0
        if log_wealth(outcomes, middle) >= limit:
            refuted = middle
        else:
            possible = middle
    return refuted


SHIFTS = np.array(
    [0.1, 0.2, 0.5, 2.0]
)  # of the log-odds of meeting the challenger: 0.2 is 45:55 where 50:50 was asked for
SHIFT_WEIGHTS = np.array([0.15, 0.55, 0.2, 0.1])  # either way has half of each


def log_ratio_of_counts(share: Any, challengers: Any, champions: Any) -> Any:
    """Log wealth of bets that units do not meet the challenger with the probability `share`, from counts of fair draws.

    A bettor j has the likelihood ratio of odds that are off by a factor exp(±SHIFTS[j]): a product over draws, so the counts at
    each share are enough, in whatever order they came. The counts' last axis is the different shares.
    """
    share = np.asarray(share, dtype=float)
    log_odds = np.log(share) - np.log1p(-share)
    both_ways = np.concatenate([SHIFTS, -SHIFTS])
    shifted = 1.0 / (1.0 + np.exp(-(log_odds[..., None] + both_ways)))
    gains = np.asarray(challengers)[..., None] * (np.log(shifted) - np.log(share)[..., None])
    gains = gains + np.asarray(champions)[..., None] * (np.log1p(-shifted) - np.log1p(-share)[..., None])
    weights = np.concatenate([SHIFT_WEIGHTS, SHIFT_WEIGHTS]) / 2.0
    return np.logaddexp.reduce(gains.sum(axis=-2) + np.log(weights), axis=-1)


EXCESSES = np.array([0.05, 0.15, 0.4, 0.8])  # of the way from the limit of a rate to 1


def log_wealth_over_limit(bad: float, good: float, limit: float) -> float:
    """Log wealth of bets that marks of 0 or 1 are 1 more often than `limit` (above 0, below 1), from their counts.

    Bettor j has the likelihood ratio of a rate that lies `EXCESSES[j]` of the way from the limit to 1; equal weights.
    """
    rates = limit + (1.0 - limit) * EXCESSES
    gains = bad * np.log(rates / limit) + good * np.log((1.0 - rates) / (1.0 - limit))
    return float(np.logaddexp.reduce(gains) - math.log(len(EXCESSES)))
