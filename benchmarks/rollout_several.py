"""How soon the best of several versions is found, and what users meet until then: shares that follow the feedback, or equal ones.

    python -m benchmarks.rollout_several [--rollouts N] [--quick] [--workers N] [--json]

Three challengers against a champion that pleases 60% of the units, each unit with one feedback at once, a look every
50 and later every fiftieth of what came. Three ways to share the units, with the same tests of the same alpha, on the same users:

    plain A/B/n       every arm has the same share to the end
    the worse leave   the same, until an arm is proved worse than another: its units go to the others
    as it goes live   the platform's `decide` and `transition`: from the floor up the ramp, then where feedback leads

Told are the promotions of the best version and of another within 60,000 rewards; how many rewards a decision took, and the saving
against plain A/B/n (with its 95% interval, from resampling pairs of rollouts with the same users); and how many rewards the users
lost until then because they did not meet the best version.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.continual_stage import at_least
from benchmarks.rollout_errors import TENSORZERO
from evermoe.months import MOST_DAYS
from registry.analysis.outlook import arms_of, standing_of
from registry.assignment import assign, whole
from registry.deciding import decide
from registry.rollout import Decision, Policy, Rollout, new_rollout, transition

OPENED = datetime(2025, 6, 1, tzinfo=UTC)
LOOK = 50
BUDGET = 60_000
WORLDS: dict[str, tuple[float, ...]] = {
    "one 10 points better": (0.60, 0.60, 0.60, 0.70),
    "one 5 points better": (0.60, 0.60, 0.60, 0.65),
    "one better, one harmful": (0.60, 0.50, 0.60, 0.70),
}
"""The champion's mean reward, then the challengers', the best one last."""
PLAIN, LEAVING, LIVE = "plain A/B/n", "the worse leave", "as it goes live"
ACTED_ON = {PLAIN: ("promote", "abort", "inconclusive"), LEAVING: ("promote", "abort", "inconclusive", "drop")}


@dataclass(frozen=True)
class End:
    """How one rollout ended: the version promoted (None: none was), after how many rewards, and how many the users lost by then."""

    promoted: str | None
    rewards: int
    lost: float


@dataclass(frozen=True)
class Row:
    """A way in a world. `rewards` and `lost` are means until a decision, `saving` and its interval are against plain A/B/n."""

    world: str
    way: str
    best: float
    other: float
    rewards: float
    median: float
    lost: float
    saving: tuple[float, float, float] | None


def live(means: Sequence[float], way: str, seed: int, policy: Policy) -> End:
    """One rollout of versions 2, 3, … against version 1. A unit's luck is the same whichever version it meets, in every way."""
    versions = [str(number + 1) for number in range(len(means))]
    rollout = new_rollout("several", "2025-06", versions[0], versions[1:], f"salt-{seed}", policy, OPENED)
    if way != LIVE:
        rollout = shared_alike(rollout, OPENED)
    pleased = dict(zip(versions, means, strict=True))
    arms, luck = arms_of(rollout, policy), np.random.default_rng(seed)
    since_step, lost, next_look = 0, 0.0, LOOK
    for number in range(policy.max_rewards):
        now = OPENED + timedelta(minutes=number)
        arm, _ = assign(rollout.salt, f"unit-{number}", rollout.shares)
        mean = pleased[rollout.version(arm)]
        arms.observe(arm, float(luck.random() < mean), whole(rollout.shares), f"unit-{number}", now)
        since_step, lost = since_step + 1, lost + (means[-1] - mean)
        if number + 1 < min(next_look, policy.max_rewards):
            continue
        next_look += max(LOOK, next_look // 50)
        before = rollout
        decision = decide(rollout, standing_of(rollout, arms, now), policy, now, since_step)
        if way == LIVE or decision.action in ACTED_ON[way]:
            rollout = transition(rollout, decision, now)
        if not rollout.open:
            won = rollout.serves if rollout.status == "promoted" else None
            return End(won, number + 1, lost)
        if way == LEAVING and rollout is not before:
            rollout = shared_alike(rollout, now)
        since_step = 0 if rollout is not before else since_step
    return End(None, policy.max_rewards, lost)


def shared_alike(rollout: Rollout, now: datetime) -> Rollout:
    """The rollout with the same share for all who are in, the champion among them."""
    share = 1.0 / (len(rollout.inside) + 1)
    shares = {one.arm: share for one in rollout.inside}
    return transition(rollout, Decision("share", share * len(shares), "plain A/B/n", shares=shares), now)


def rows(ends: dict[tuple[str, str], list[End]]) -> list[Row]:
    """A row for each world and way."""
    found = []
    for (world, way), lived in ends.items():
        best = str(len(WORLDS[world]))
        promoted = [one.promoted for one in lived]
        rewards = np.array([one.rewards for one in lived])
        found.append(
            Row(
                world,
                way,
                promoted.count(best) / len(lived),
                sum(one not in (best, None) for one in promoted) / len(lived),
                float(rewards.mean()),
                float(np.median(rewards)),
                fmean(one.lost for one in lived),
                None if way == PLAIN else saving(rewards, np.array([one.rewards for one in ends[world, PLAIN]])),
            )
        )
    return found


def saving(ours: np.ndarray, plain: np.ndarray) -> tuple[float, float, float]:
    """The part of the rewards of plain A/B/n that is saved, and the 95% interval of it: pairs resampled, seed 0."""
    chosen = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    resampled = 1.0 - ours[chosen].mean(axis=1) / plain[chosen].mean(axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(1.0 - ours.mean() / plain.mean()), float(low), float(high)


def one(task: tuple[str, str, int]) -> tuple[str, str, End]:
    """A rollout of a world, for a process of its own."""
    world, way, seed = task
    return world, way, live(WORLDS[world], way, seed, Policy(max_days=MOST_DAYS, max_rewards=BUDGET))


def main() -> None:
    """Live all rollouts, as many at a time as there are workers, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=at_least(1), help="of each world and way (default: 200, with --quick 30)")
    parser.add_argument("--quick", action="store_true", help="two of the worlds")
    parser.add_argument("--workers", type=at_least(1), default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    worlds = list(WORLDS)[::2] if options.quick else list(WORLDS)
    count = options.rollouts or (30 if options.quick else 200)
    tasks = [(world, way, seed) for world in worlds for way in (PLAIN, LEAVING, LIVE) for seed in range(count)]
    ends: dict[tuple[str, str], list[End]] = {(world, way): [] for world, way, _ in tasks}
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        lived = track(pool.map(one, tasks, chunksize=2), "", len(tasks), console=Console(stderr=True), transient=True)
        for world, way, end in lived:  # in the order of the tasks, so the ways' lists pair by seed
            ends[world, way].append(end)
    found = rows(ends)
    if options.json:
        print(json.dumps({"rollouts": count, "rows": [asdict(row) for row in found], "published": TENSORZERO}))
        return
    print(f"{count} rollouts of each; rewards until the decision, or {BUDGET:,}")
    for row in found:
        saved = "" if row.saving is None else ", saves {:.0%} ({:.0%} to {:.0%})".format(*row.saving)
        promoted = f"promoted the best {row.best:.1%}, another {row.other:.1%}"
        print(
            f"  {row.world:<24} {row.way:<16} {promoted}; rewards: mean {row.rewards:,.0f}, median {row.median:,.0f}{saved}; "
            f"users lost {row.lost:,.0f}"
        )
    print(TENSORZERO)


if __name__ == "__main__":
    main()
