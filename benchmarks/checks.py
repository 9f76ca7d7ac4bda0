"""How often the checks stop a clean month, and how often a poisoned one: every month of a real stream, looked at as it came.

    python -m benchmarks.checks [--repository PATH] [--seeds N] [--rows N] [--json]

Streams: the change notes of `ansible` with their collection as the label (the demo's task), and the same notes with their kind
(bugfixes, minor_changes ...) instead: few labels, which overlap. With `--repository` the commits of a Git repository in their
place, where a few authors send most; its months of `min_rows` commits or more are looked at.

The poisons, each in every month: labels flipped at random (30% and 15%, to any other label known, `--seeds` draws); the texts
replaced by messages in another language (Django's translations, brought once like the stream), all or half of them; one unit
sending half of the rows. The past is what was clean: a month that was stopped counts as learned after a reviewer let it pass.
With `--rows` each month that is looked at is thinned to so many rows, to see what a small month can tell.

And of the gate `every past month`: how often it fails a challenger that is as good as the champion, and one that forgot a month,
by the number of months and of rows; exact, from the binomial distribution.
"""

from __future__ import annotations

import argparse
import gettext
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from evermoe.packages import Package, bring
from evermoe.quiet import silence
from evermoe.settings import load_params, settings
from model.gates import standard_errors
from monitoring.checks import CHECKS, LABEL_NOISE, LANGUAGE, ONE_UNIT, CheckPolicy, inspect, thinned, usual_figures
from streams import ansible, open_stream

FIRST = 1000  # rows that are learned before the first month is looked at
LEAST = 100  # rows of a month that is looked at
DJANGO = Package(
    "Django==5.2",
    "Django-5.2-py3-none-any.whl",
    "91ceed4e3a6db5aedced65e3c8f963118ea9ba753fc620831c77074e620e7d83",
    8_301_361,
)
LANGUAGES = ("fr", "de", "ru", "zh_Hans")


@dataclass(frozen=True)
class Told:
    """A labelled text and who sent it."""

    text: str
    label: str
    unit: str | None


Month = list[Told]


def collections(cache: Path) -> dict[str, Month]:
    """The stream `ansible`, month by month."""
    found: dict[str, Month] = {}
    for record in open_stream("ansible", path=None, cache=cache).records():
        if record.label is not None:
            found.setdefault(f"{record.at:%Y-%m}", []).append(Told(record.text, record.label, record.unit))
    return found


def kinds(cache: Path) -> dict[str, Month]:
    """The same notes, with the kind of change as the label."""
    notes: dict[tuple[str, str], tuple[str, Told]] = {}
    with zipfile.ZipFile(ansible.bring_wheel(cache)) as wheel:
        for name in sorted(filter(ansible.CHANGELOG.fullmatch, wheel.namelist())):
            releases = yaml.load(wheel.read(name), Loader=ansible.YAML_LOADER).get("releases") or {}
            for release in releases.values() if isinstance(releases, dict) else releases:
                day, changes = ansible._day(release.get("release_date")), release.get("changes")
                if day is None or not isinstance(changes, dict):
                    continue
                for kind in changes:
                    for note in ansible._texts({kind: changes[kind]}):
                        text = ansible.without_addresses(note)
                        if text.strip():
                            notes.setdefault((text, kind), (str(day), Told(text, kind, ansible.asked_by(note))))
    found: dict[str, Month] = {}
    for released, told in sorted(notes.values(), key=lambda one: one[0]):
        found.setdefault(released[:7], []).append(told)
    return found


def commits(repository: Path) -> dict[str, Month]:
    """The stream `git`, month by month."""
    found: dict[str, Month] = {}
    for record in open_stream("git", path=repository, cache=settings().cache).records():
        if record.label is not None:
            found.setdefault(f"{record.at:%Y-%m}", []).append(Told(record.text, record.label, record.unit))
    return found


def messages(cache: Path, language: str) -> list[str]:
    """Sentences in a language, of Django's translations."""
    found: set[str] = set()
    with zipfile.ZipFile(bring(DJANGO, cache)) as wheel:
        for name in wheel.namelist():
            if f"/locale/{language}/" in name and name.endswith(".mo"):
                catalog = gettext.GNUTranslations(io.BytesIO(wheel.read(name)))._catalog  # type: ignore[attr-defined]
                found |= {text for key, text in catalog.items() if key and isinstance(text, str) and len(text) > 15}
    return sorted(found)


def flipped(share: float, rows: Month, labels: Sequence[str], generator: random.Random) -> Month:
    """So many labels, each replaced by any other one."""
    chosen = set(generator.sample(range(len(rows)), round(share * len(rows))))
    return [
        replace(row, label=generator.choice([label for label in labels if label != row.label])) if n in chosen else row
        for n, row in enumerate(rows)
    ]


def translated(
    sentences: Sequence[str], share: float, rows: Month, labels: Sequence[str], generator: random.Random
) -> Month:
    """So many texts, each replaced by a sentence in another language."""
    chosen = set(generator.sample(range(len(rows)), round(share * len(rows))))
    return [replace(row, text=generator.choice(sentences)) if n in chosen else row for n, row in enumerate(rows)]


def taken_over(rows: Month, labels: Sequence[str], generator: random.Random) -> Month:
    """Half of the rows sent by one unit that was never seen."""
    chosen = set(generator.sample(range(len(rows)), len(rows) // 2))
    return [replace(row, unit="one unit") if n in chosen else row for n, row in enumerate(rows)]


Poison = Callable[[Month, Sequence[str], random.Random], Month]


def poisons(cache: Path, seeds: int) -> Iterator[tuple[str, str, int, Poison]]:
    """Name, the check that should stop it, a seed, and how it is done."""
    for share in (0.3, 0.15):
        for seed in range(seeds):
            yield (
                f"{share:.0%} of the labels flipped",
                LABEL_NOISE,
                seed,
                partial(flipped, share),
            )
    for language in LANGUAGES:
        sentences = messages(cache, language)
        for words, share in (("another language", 1.0), ("half of it in another language", 0.5)):
            yield (
                words,
                LANGUAGE,
                0,
                partial(translated, sentences, share),
            )
    yield "one unit sends half", ONE_UNIT, 0, taken_over


def measure(
    months: dict[str, Month], policy: CheckPolicy, cache: Path, seeds: int, least: int, most: int | None
) -> dict[str, object]:
    """False alarms of each check on the clean months, and the share of each poison's months that its check stopped."""
    false: dict[str, list[str]] = {name: [] for name in CHECKS}
    stopped: dict[str, list[bool]] = {}
    known: Month = []
    past: list[Month] = []
    looked_at: list[str] = []
    ways = list(poisons(cache, seeds))
    for month, rows in months.items():
        if len(known) >= FIRST and len(rows) >= least:
            looked_at.append(month)
            whole = rows
            rows = list(thinned(whole, most or len(whole)))
            usual = usual_figures(past, len(rows), policy)
            for check in inspect(rows, known, usual, policy):
                if not check.passed:
                    false[check.name].append(month)
            labels = sorted({row.label for row in (*known, *rows)})
            for words, name, seed, poison in ways:
                poisoned = poison(rows, labels, random.Random(f"{month}-{seed}"))
                stopped.setdefault(words, []).append(not CHECKS[name](poisoned, known, usual, policy).passed)
            rows = whole
        past.append(rows)
        known += rows
    return {
        "months": len(looked_at),
        "first": looked_at[0],
        "last": looked_at[-1],
        "false_alarms": false,
        "stopped": {words: {"share": sum(hits) / len(hits), "of": len(hits)} for words, hits in stopped.items()},
    }


@dataclass(frozen=True)
class Chance:
    """Of the gate `every past month`: how often it stops an equal challenger, and one that lost `points` in one month."""

    months: int
    rows: int
    differ: float
    equal: float
    forgot: float


def gate_chances(limit: float, points: float = 30.0) -> list[Chance]:
    """For few and many months of few and many rows, where the two models differ by chance on a share of the rows."""
    from scipy.stats import binom

    def fails(months: int, rows: int, gained: float, lost: float) -> float:
        """One of so many months, in which each row is lost or gained with these chances."""
        total = 0.0
        for differing in range(rows + 1):
            some = float(binom.pmf(differing, rows, gained + lost))
            for losses in range(differing + 1):
                net = 2 * losses - differing
                if net - standard_errors(months) * differing**0.5 > limit * rows / 100:
                    total += some * float(binom.pmf(losses, differing, lost / (gained + lost)))
        return total

    found = []
    for months in (12, 72):
        for rows in (28, 60):
            for differ in (0.1, 0.2):
                by_chance = fails(months, rows, differ / 2, differ / 2)
                forgot = fails(months, rows, differ / 2, differ / 2 + points / 100)
                found.append(Chance(months, rows, differ, 1 - (1 - by_chance) ** months, forgot))
    return found


def main() -> None:
    """Both streams, and the gate, as tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, help="look at the commits of this Git repository")
    parser.add_argument("--seeds", type=int, default=3, help="how often each month's labels are flipped anew")
    parser.add_argument("--rows", type=int, help="thin each month that is looked at to so many rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    silence()
    cache = settings().cache
    policy = CheckPolicy(**load_params().checks.model_dump())
    if options.repository:
        streams = {"commits": commits(options.repository)}
    else:
        streams = {"ansible, by collection": collections(cache), "ansible, by kind of change": kinds(cache)}
    found = {
        name: measure(
            months, policy, cache, options.seeds, policy.min_rows if name == "commits" else LEAST, options.rows
        )
        for name, months in streams.items()
    }
    chances = gate_chances(load_params().gates.past_month_loss)
    if options.json:
        print(json.dumps({"streams": found, "every_past_month": [asdict(one) for one in chances]}))
        return
    for name, shown in found.items():
        print(f"{name}: {shown['months']} months, {shown['first']} to {shown['last']}")
        for check, months in shown["false_alarms"].items():  # type: ignore[attr-defined]
            print(f"  {check:<34} clean months stopped: {len(months)} {', '.join(months)}")
        for poison, told in shown["stopped"].items():  # type: ignore[attr-defined]
            print(f"  {poison:<34} stopped: {told['share']:.1%} of {told['of']}")
    print("every past month: how often the gate stops a challenger")
    for one in chances:
        print(
            f"  {one.months} months of {one.rows} rows, {one.differ:.0%} answered differently by chance: "
            f"as good {one.equal:.1%}, 30 points lost on one month {one.forgot:.1%}"
        )


if __name__ == "__main__":
    main()
