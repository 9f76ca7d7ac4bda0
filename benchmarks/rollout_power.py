"""How soon a rollout proves a better version: weighing all feedback, against only that on answers in which the arms differ.

    python -m benchmarks.rollout_power [--home DIR] [--draws N] [--looks N] [--json]

Takes the first rollout of a finished demo, however it ended there, and lives its month again, N times with users assigned anew: the
records, the two versions' own answers, the ramp, the looks and the users' habits are the demo's. Both ways of weighing see the
same feedback. It needs a finished demo in the home.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean

from benchmarks.continual_stage import at_least
from evermoe.errors import NotReady
from evermoe.quiet import silence
from evermoe.settings import Params, load_params, use_home
from registry.analysis.outlook import outlook, weighed
from registry.assignment import CHALLENGER, assign
from registry.rollout import new_rollout, transition


@dataclass(frozen=True)
class Question:
    """A record, and what both versions answer to it."""

    at: datetime
    unit: str
    champion_right: bool
    challenger_right: bool
    alike: bool


@dataclass(frozen=True)
class Told:
    """One feedback, as the event log would hand it out."""

    arm: str
    reward: float
    propensity: float
    unit: str
    at: datetime
    agreed: bool
    requested_at: datetime
    shares: None = None
    unit_given: bool = True
    api_key: str = ""


@dataclass(frozen=True)
class Power:
    """Of the draws: the share promoted and aborted by the month's end, and the mean day of the promotion (None: never)."""

    promoted: float
    aborted: float
    day: float | None


def questions(champion: str, challenger: str, month: str) -> list[Question]:
    """The month's labelled records, answered by both versions of the home."""
    from evermoe.months import month_of
    from flows.runtime.parts import open_parts
    from model import from_pretrained
    from streams import open_stream

    params, here = load_params(), use_home(None)
    records = open_stream(params.stream.name, path=None, cache=here.cache).records()
    asked = [record for record in records if month_of(record.at) == month and record.label is not None]
    texts = [record.text for record in asked]
    with open_parts() as parts:
        one, other = (
            [answer.label for answer in from_pretrained(parts.versions.weights(version)).classify(texts)]
            for version in (champion, challenger)
        )
    return [
        Question(record.at, record.unit or f"nobody-{number}", a == record.label, b == record.label, a == b)
        for number, (record, a, b) in enumerate(zip(asked, one, other, strict=True))
    ]


def lift(found: Sequence[Question]) -> tuple[int, float]:
    """Units, and the challenger's lift over their first questions."""
    first = list({question.unit: question for question in reversed(found)}.values())
    return len(first), fmean(question.challenger_right - question.champion_right for question in first)


def live(
    found: Sequence[Question], params: Params, begin: datetime, end: datetime, seed: int, aware: bool
) -> str | int:
    """One month of one rollout: the day on which it was promoted, or how it stood at the end."""
    from flows.runtime.parts import policy_of

    generator = random.Random(seed)
    policy = policy_of(params)
    rollout = new_rollout("draw", "month", "1", "2", f"salt-{seed}", policy, begin)
    count = params.demo.looks_per_month
    looks = [begin + (end - begin) * (index + 1) / (count + 1) for index in range(count)] + [end - timedelta(seconds=1)]
    told: list[Told] = []
    waiting = iter(found)
    question = next(waiting, None)
    for now in looks:
        while question is not None and question.at <= now:
            arm, propensity = assign(rollout.salt, question.unit, {CHALLENGER: rollout.share})
            right = question.challenger_right if arm == CHALLENGER else question.champion_right
            if generator.random() >= params.demo.feedback_missing:
                at = question.at + timedelta(days=generator.expovariate(1 / params.demo.feedback_delay_days))
                told.append(Told(arm, float(right), propensity, question.unit, at, question.alike, question.at))
            question = next(waiting, None)
        arrived = sorted(told, key=lambda one: one.at)
        seen = arrived if aware else [replace(one, agreed=False) for one in arrived]
        rollout = transition(rollout, outlook(rollout, weighed(rollout, seen, policy, now), policy, now).next, now)
        if not rollout.open:
            return (now - begin).days if rollout.status == "promoted" else rollout.status
    return rollout.status


def power(found: Sequence[Question], params: Params, month: str, draws: int, aware: bool) -> Power:
    """Over all draws."""
    from evermoe.months import end_of, start_of

    ends = [live(found, params, start_of(month), end_of(month), seed, aware) for seed in range(draws)]
    days = [end for end in ends if isinstance(end, int)]
    return Power(len(days) / draws, ends.count("aborted") / draws, fmean(days) if days else None)


def main() -> None:
    """Find the rollout, live it again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="the home of a finished demo; without it, EVERMOE_HOME or .evermoe")
    parser.add_argument("--draws", type=at_least(1), default=100, help="how often users are assigned anew")
    parser.add_argument(
        "--looks", type=at_least(1), help="how often the rollout is looked at; without it, as often as in the demo"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    silence()
    here = use_home(options.home)
    if not (here.home / "demo.json").exists():
        raise SystemExit(str(NotReady(f"no finished demo in {here.home}; run `make demo` first")))
    from evermoe.months import month_of
    from flows.runtime.parts import open_parts

    with open_parts() as parts:
        rollouts = parts.ledger.list()
    if not rollouts:
        raise SystemExit(f"no version was on trial in {here.home}")
    first = rollouts[0]
    month = month_of(first.opened_at)
    found = questions(first.champion, first.challenger, month)
    params = load_params()
    if options.looks is not None:
        demo = params.demo.model_copy(update={"looks_per_month": options.looks})
        params = params.model_copy(update={"demo": demo})
    everyone, differing = lift(found), lift([question for question in found if not question.alike])
    ways = {
        "all feedback": power(found, params, month, options.draws, aware=False),
        "where the arms differ": power(found, params, month, options.draws, aware=True),
    }
    if options.json:
        shown = {"month": month, "draws": options.draws, "units": everyone[0], "lift": everyone[1]}
        shown |= {"differing_units": differing[0], "differing_lift": differing[1]}
        print(json.dumps({**shown, "ways": {name: asdict(one) for name, one in ways.items()}}))
        return
    print(f"{month}: version {first.challenger} against {first.champion}, users assigned anew {options.draws} times")
    print(f"  first questions of {everyone[0]} units: lift {everyone[1]:+.3f}")
    print(f"  those where the answers differ, {differing[0]} units: lift {differing[1]:+.3f}")
    for name, one in ways.items():
        spread = 1.96 * (one.promoted * (1 - one.promoted) / options.draws) ** 0.5
        when = f", on day {one.day:.0f} on average" if one.day is not None else ""
        print(f"  {name:<24} promoted {one.promoted:.0%} ± {spread:.0%}, aborted {one.aborted:.0%}{when}")


if __name__ == "__main__":
    main()
