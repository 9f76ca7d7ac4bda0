"""How often a rollout errs, and how soon it decides: thousands of simulated rollouts through the platform's own bets.

    python -m benchmarks.rollout_errors [--quick] [--json]

**A/A.** 10,000 rollouts of two equal arms, looked at after every feedback, along the ramp and moved by hand twice, with users who
answer up to a day late, at rates of their own, and again and again: how many end in a promotion or an abort, with the exact
(Clopper-Pearson) interval; and how often a z-test of 5% that looks as often rejects in the same rollouts.

**A/B.** Lifts of 2, 5 and 10 points on 60%: how many are promoted within the budget, and how many rewards that takes, in parts of
those of a two-sided z-test of 5% at a sample size fixed for 80% power, and, for the mean, of one fixed for the power that was
reached. Once with half the units from the start, and once up the ramp.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from scipy import stats

from benchmarks.rollout_worlds import ABORTED, PROMOTED, Ends, Users, decide_on, live, traffic
from registry.rollout import Policy

BASE = 0.6
LIFTS = (0.02, 0.05, 0.1)
RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
BUDGET = 60_000  # rewards
AT_ONCE = 1000
TENSORZERO = (
    "TensorZero publishes 37% less time than plain A/B testing to find the best of several variants "
    "(https://www.tensorzero.com/blog/bandits-in-your-llm-gateway, in environments of its own)"
)


@dataclass(frozen=True)
class Share:
    """So many of so many, with the exact 95% interval."""

    share: float
    low: float
    high: float
    of: int


@dataclass(frozen=True)
class Equal:
    """Two equal arms: rollouts that ended in a wrong promotion, a wrong abort or either, and what peeking at a z-test does."""

    promoted: Share
    aborted: Share
    wrong: Share
    z_test: Share
    rewards: float


@dataclass(frozen=True)
class Better:
    """A challenger that is better by `lift`. Rewards are in parts of the fixed-horizon test's."""

    lift: float
    ramp: bool
    promoted: Share
    aborted: Share
    fixed: int
    median: float
    mean: float
    nine_tenths: float
    saving: float
    """Of the mean, against a fixed-horizon test of the power that was reached."""


def share_of(hits: int, of: int) -> Share:
    """With the Clopper-Pearson interval of 95%."""
    low, high = stats.binomtest(hits, of).proportion_ci(0.95, method="exact")
    return Share(hits / of, float(low), float(high), of)


def fixed_horizon(champion: float, challenger: float, power: float, alpha: float = 0.05) -> int:
    """Rewards of both arms together that a two-sided z-test of two proportions needs, half of them for each arm."""
    spread = champion * (1 - champion) + challenger * (1 - challenger)
    quantiles = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    return 2 * math.ceil(quantiles**2 * spread / (challenger - champion) ** 2)


def equal(rollouts: int, report: Callable[[int], None], users: Users | None = None) -> Equal:
    """A/A, seed 0."""
    users, draw, ends = users or Users(), np.random.default_rng(0), list[Ends]()
    for begin in range(0, rollouts, AT_ONCE):
        made = traffic(users, min(AT_ONCE, rollouts - begin), draw)
        ends.append(live(users, made, Policy(shares=RAMP), report=report))
    outcome = np.concatenate([one.outcome for one in ends])
    return Equal(
        promoted=share_of(int(np.sum(outcome == PROMOTED)), rollouts),
        aborted=share_of(int(np.sum(outcome == ABORTED)), rollouts),
        wrong=share_of(int(np.sum(outcome != 0)), rollouts),
        z_test=share_of(int(sum(one.z_rejected.sum() for one in ends)), rollouts),
        rewards=float(np.mean(np.concatenate([one.rewards for one in ends]))),
    )


def better(lift: float, ramp: bool, rollouts: int, most: int, report: Callable[[int], None]) -> Better:
    """A/B, seed 1."""
    policy = Policy(shares=RAMP if ramp else (0.5,))
    ends = decide_on(BASE, BASE + lift, policy, rollouts, most, 1, report)
    promoted = share_of(int(np.sum(ends.outcome == PROMOTED)), rollouts)
    fixed = fixed_horizon(BASE, BASE + lift, 0.8)
    until = np.where(ends.outcome == PROMOTED, ends.rewards, np.inf) / fixed
    mean = float(ends.rewards.mean())
    same_power = fixed_horizon(BASE, BASE + lift, min(promoted.share, 0.999))
    return Better(
        lift=lift,
        ramp=ramp,
        promoted=promoted,
        aborted=share_of(int(np.sum(ends.outcome == ABORTED)), rollouts),
        fixed=fixed,
        median=float(np.median(until)),
        mean=mean / fixed,
        nine_tenths=float(np.quantile(ends.rewards, 0.9)) / fixed,
        saving=1 - mean / same_power,
    )


def measure(rollouts: int, races: int, lifts: tuple[float, ...], console: Console) -> tuple[Equal, list[Better]]:
    """All figures, with progress on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("A/A", total=rollouts * Users().requests)
        same = equal(rollouts, lambda done: bars.advance(task, done))
        rows = []
        for lift in lifts:
            for ramp in (False, True):
                most = bars.add_task(f"lift of {lift:.0%}", total=BUDGET)
                rows.append(better(lift, ramp, races, BUDGET, lambda done, most=most: bars.advance(most, done)))  # type: ignore[misc]
    return same, rows


def show(same: Equal, rows: list[Better], console: Console) -> None:
    """For people."""

    def said(one: Share) -> str:
        return f"{one.share:.2%} ({one.low:.2%} to {one.high:.2%})"

    console.print(f"A/A, {same.wrong.of:,} rollouts, a look after each of {same.rewards:,.0f} rewards on average")
    console.print(
        f"  decided wrongly     {said(same.wrong)}; promoted {same.promoted.share:.2%}, aborted {same.aborted.share:.2%}"
    )
    console.print(f"  z-test that peeks   {said(same.z_test)}")
    console.print(
        f"A/B on {BASE:.0%}, {rows[0].promoted.of:,} rollouts of up to {BUDGET:,} rewards; 1 is the fixed z-test of 80% power"
    )
    for row in rows:
        start = "up the ramp" if row.ramp else "half at once"
        console.print(
            f"  +{row.lift:.0%} {start:<13} promoted {row.promoted.share:.1%}, aborted {row.aborted.share:.1%}; "
            f"rewards: median {row.median:.2f}, mean {row.mean:.2f}, 9 of 10 in {row.nine_tenths:.2f} of {row.fixed:,}; "
            f"saving at equal power {row.saving:.0%}"
        )
    console.print(TENSORZERO)


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rollouts, and no lift of 2 points")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rollouts, races, lifts = (500, 100, LIFTS[1:]) if options.quick else (10_000, 2000, LIFTS)
    same, rows = measure(rollouts, races, lifts, Console(stderr=True))
    if options.json:
        found = {"equal": asdict(same), "better": [asdict(row) for row in rows], "alpha": 0.05, "budget": BUDGET}
        print(json.dumps(found | {"published": TENSORZERO}))
    else:
        show(same, rows, Console(highlight=False, width=180))


if __name__ == "__main__":
    main()
