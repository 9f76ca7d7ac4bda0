"""The rollouts of the benchmark are the platform's own, its rival keeps its shares, and the figures are printed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from benchmarks.rollout_several import LEAVING, LIVE, LOOK, OPENED, PLAIN, WORLDS, End, live, main, rows, saving
from evermoe.months import MOST_DAYS
from evermoe.settings import ROOT
from monitoring.events import Reward
from registry.analysis.outlook import outlook, weighed
from registry.assignment import assign, whole
from registry.rollout import Policy, new_rollout, transition

MEANS = (0.4, 0.4, 0.6, 0.95)
POLICY = Policy(max_days=MOST_DAYS, max_rewards=1500)


def lived_from_the_log(means: Sequence[float], seed: int) -> End:
    """The same rollout by the whole controller, which reads all rewards anew at each look."""
    versions = [str(number + 1) for number in range(len(means))]
    rollout = new_rollout("several", "2025-06", versions[0], versions[1:], f"salt-{seed}", POLICY, OPENED)
    luck, seen, lost = np.random.default_rng(seed), list[Reward](), 0.0
    for number in range(POLICY.max_rewards):
        now = OPENED + timedelta(minutes=number)
        arm, propensity = assign(rollout.salt, f"unit-{number}", rollout.shares)
        mean = means[int(rollout.version(arm)) - 1]
        shares, told = whole(rollout.shares), float(luck.random() < mean)
        seen.append(Reward(f"r{number}", f"unit-{number}", True, arm, "", propensity, told, now, now, False, shares))
        lost += means[-1] - mean
        if (number + 1) % LOOK == 0:
            ahead = outlook(rollout, weighed(rollout, seen, POLICY, now), POLICY, now)
            rollout = transition(rollout, ahead.next, now)
            if not rollout.open:
                return End(rollout.serves if rollout.status == "promoted" else None, number + 1, lost)
    return End(None, POLICY.max_rewards, lost)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rollout_goes_as_the_whole_controller_would_lead_it(seed: int) -> None:
    assert live(MEANS, LIVE, seed, POLICY) == lived_from_the_log(MEANS, seed)


def test_the_worse_leave_sooner_than_the_best_is_proved_and_users_lose_less() -> None:
    means = (0.5, 0.1, 0.5, 0.8)
    plain, leaving = (live(means, way, 0, POLICY) for way in (PLAIN, LEAVING))
    assert plain.promoted == leaving.promoted == "4"
    assert leaving.lost < plain.lost
    assert plain.lost / plain.rewards == pytest.approx(0.8 - sum(means) / 4, abs=0.03)  # all have one share to the end


def test_equal_versions_end_undecided_at_the_budget() -> None:
    end = live((0.6, 0.6, 0.6), LIVE, 3, Policy(max_days=MOST_DAYS, max_rewards=300))
    assert end == End(None, 300, 0.0)


def test_a_saving_is_of_the_means_and_lies_in_its_interval() -> None:
    plain = np.array([1000, 3000, 2000])
    assert saving(plain / 2, plain) == pytest.approx((0.5, 0.5, 0.5))
    middle, low, high = saving(np.array([900, 1000, 1500]), plain)
    assert middle == pytest.approx(1 - 3400 / 6000)
    assert low < middle < high


def test_rows_count_the_best_and_the_others_apart() -> None:
    world = next(iter(WORLDS))
    lived = [End("4", 100, 3.0), End("2", 200, 5.0), End(None, 300, 7.0)]
    plain, ours = rows({(world, PLAIN): lived, (world, LIVE): lived})
    assert (plain.best, plain.other, plain.rewards, plain.lost) == pytest.approx((1 / 3, 1 / 3, 200, 5))
    assert (plain.saving, ours.saving) == (None, (0.0, 0.0, 0.0))


@pytest.mark.parametrize("option", ["--rollouts", "--workers"])
def test_none_at_all_is_refused_in_one_line(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rollout_several", option, "0"])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument {option}: '0' is not a whole number from 1")


@pytest.mark.slow
def test_the_command_prints_one_object() -> None:
    command = [sys.executable, "-m", "benchmarks.rollout_several", "--quick", "--rollouts", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr
    assert {row["way"] for row in json.loads(done.stdout)["rows"]} == {PLAIN, LEAVING, LIVE}
