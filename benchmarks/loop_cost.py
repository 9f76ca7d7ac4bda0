"""What the platform itself costs: how a demo's wall time splits between training, serving, and everything else.

    python -m benchmarks.loop_cost [--home DIR] [--json]

Reads a finished demo: its own account of seconds (`demo.json`) and the training runs in its MLflow. Without one in the home it
runs a demo of its own in a temporary folder first, which takes as long as `make demo`. The physical limit of the loop is
training plus serving; everything else is the platform, reported as a share of the whole and month by month with its spread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from evermoe.quiet import silence
from evermoe.settings import Settings, use_home

TRAINING = ("train", "distil")
STEPS = ("drift", "snapshot", "train", "distil", "gates")


@dataclass(frozen=True)
class Cost:
    """Seconds. `parts` splits `other`; `steps` is the duration of each kind of MLflow step run over all months."""

    total: float
    training: float
    serving: float
    other: float
    parts: dict[str, float]
    steps: dict[str, float]
    training_by_month: dict[str, float]

    @property
    def other_share(self) -> float:
        """What the platform adds, as a share of the whole."""
        return self.other / self.total


def measure(here: Settings) -> Cost:
    """The cost of the demo that lives in this home."""
    seconds: dict[str, float] = json.loads((here.home / "demo.json").read_text(encoding="utf-8"))["seconds"]
    by_month, steps = trained(here)
    base = by_month.pop("base", 0.0)
    updates = sum(by_month.values())
    parts = {
        "starting the servers": seconds["servers"],
        "base: examine and register": seconds["base"] - base,
        "drift flow": seconds["drift flow"],
        "monthly flow but its trainings": seconds["monthly flow"] - updates,
        "rollout flow": seconds["rollout flow"],
        "the demo's rivals": seconds["rivals"],
    }
    training, serving = base + updates, seconds["serving"]
    other = seconds["total"] - training - serving
    parts["the rest"] = other - sum(parts.values())
    return Cost(seconds["total"], training, serving, other, parts, steps, by_month)


def trained(here: Settings) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of training by month, and the duration of each kind of step over all months, from MLflow."""
    from registry.tracker.runs import Tracking

    tracking = Tracking(here.tracking_uri, here.artifacts)
    by_month: dict[str, float] = {}
    steps = dict.fromkeys(STEPS, 0.0)
    for run in tracking.client.search_runs([tracking.experiment], max_results=5000):
        kind, month = run.data.tags.get("evermoe.kind"), run.data.tags.get("evermoe.month", "")
        if kind in TRAINING:
            by_month[month] = by_month.get(month, 0.0) + run.data.metrics["seconds"]
        if kind in steps and run.info.end_time:
            steps[kind] += (run.info.end_time - run.info.start_time) / 1000
    return dict(sorted(by_month.items())), steps


def print_cost(cost: Cost) -> None:
    """The split, largest first."""
    for name, value in (("training", cost.training), ("serving", cost.serving), ("everything else", cost.other)):
        print(f"{name:<34}{value:8.1f} s{value / cost.total:8.1%}")
        if name == "everything else":
            for part, took in sorted(cost.parts.items(), key=lambda item: -item[1]):
                print(f"  {part:<32}{took:8.1f} s{took / cost.total:8.1%}")
    print(f"{'total':<34}{cost.total:8.1f} s")
    if months := list(cost.training_by_month.values()):
        print(
            f"training a month: {fmean(months):.1f} s ({min(months):.1f} to {max(months):.1f} over {len(months)} months)"
        )


def main() -> None:
    """Measure, running a demo first where there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="the home of a finished demo; without it, EVERMOE_HOME or .evermoe")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    silence()
    here = use_home(options.home)
    with tempfile.TemporaryDirectory() as folder:
        if not (here.home / "demo.json").exists():
            print(f"no finished demo in {here.home}; running one (as long as `make demo`)", file=sys.stderr)
            here = use_home(Path(folder) / "home")
            command = [sys.executable, "-m", "commands.main", "demo", "--json", "--home", str(here.home)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ.copy())
        cost = measure(here)
    if options.json:
        print(json.dumps({**asdict(cost), "other_share": cost.other_share}))
    else:
        print_cost(cost)


if __name__ == "__main__":
    main()
