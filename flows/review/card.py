"""A version's model card: what it is, what changed since its parent, what got worse, and which data made it.

Two pages of one content: Markdown for the version's description, short, and HTML for the run that registered it, whole. Both
are written before the version is registered, so its number and its trial are left open; `registry/tracker/pages.py` fills them in.
Texts and labels come from users: in HTML the template escapes them, in Markdown `plain` does, and the page fetches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.learning.examples import is_held_out
from model import Gate
from model.compare import Change, Comparison, Confusion
from model.gates import Contest
from registry.snapshots import Snapshots
from registry.tracker.pages import NUMBER, Told, in_html, in_markdown, plain

SHOWN = 8
"""How many confusions, examples or labels the card lists of each kind."""
SHOWN_IN_WORDS = 4
UNTRIED = Told("It has met no users yet.")


@dataclass(frozen=True)
class Source:
    """A snapshot that made the version; `fresh` where its parent had not learned it, `held_out` the rows none trains on."""

    name: str
    rows: int
    held_out: int
    md5: str
    labels: int
    first: str
    last: str
    fresh: bool


@dataclass(frozen=True)
class Card:
    """All that a card says. `lesson` is what the training was, in a sentence; `runs` are the ids of the runs that made it."""

    period: str
    parent: str | None
    labels: tuple[str, ...]
    lesson: str
    sources: tuple[Source, ...]
    gates: tuple[Gate, ...] = ()
    comparison: Comparison | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is, short."""
        return f"{self.period}, from version {self.parent}" if self.parent else f"{self.period}, from nothing"


def sources_of(snapshots: Snapshots, known: Iterable[str], fresh: Iterable[str]) -> tuple[Source, ...]:
    """The snapshots a version is made of, the oldest first. Raises as `Snapshots.load` does."""
    found = []
    for names, is_fresh in ((known, False), (fresh, True)):
        for name in names:
            snapshot, rows = snapshots.get(name), snapshots.load(name)
            told = [row for row in rows if row.label is not None]  # only those are learned as examples, or examine
            labels, held_out = len({row.label for row in told}), sum(is_held_out(row.text) for row in told)
            first, last = f"{rows[0].at:%Y-%m-%d}", f"{rows[-1].at:%Y-%m-%d}"
            found.append(Source(name, snapshot.rows, held_out, snapshot.md5, labels, first, last, is_fresh))
    return tuple(found)


def figures_of(contest: Contest, labels: Sequence[str], comparison: Comparison | None = None) -> dict[str, float]:
    """The figures by which MLflow sets versions side by side, always under the same names; changes are in points."""
    months = {month: one.accuracy for month, one in contest.past.items() if one.examples}
    found: dict[str, float] = {
        "new_month.accuracy": contest.new.accuracy,
        "new_month.macro_f1": contest.new.macro_f1,
        "calibration_error": contest.new.calibration_error,
        "latency_ms": contest.latency_ms,
        "memory_bytes": contest.weight_bytes,
        "labels": len(labels),
        **{f"month.{month}.accuracy": accuracy for month, accuracy in months.items()},
    }
    if months:
        found |= {"past.average": sum(months.values()) / len(months), "past.worst": min(months.values())}
    if comparison:
        found |= {
            "new_month.change": comparison.new.points,
            "labels.gained": len(comparison.labels_gained),
            "labels.lost": len(comparison.labels_lost),
            "examples.fixed": len(comparison.fixed),
            "examples.broken": len(comparison.broken),
            "experts.load_moved": comparison.load_variation,
        }
        if changes := [change.points for change in comparison.past]:
            found |= {"past.average_change": sum(changes) / len(changes), "past.worst_change": min(changes)}
    return {name: value for name, value in found.items() if value == value}  # NaN: nothing was measured


def sentence(comparison: Comparison) -> str:
    """What changed since the parent, in plain words of one paragraph. Labels in it are foreign text."""
    gained, lost, new = comparison.labels_gained, comparison.labels_lost, comparison.new
    said = [f"It learned {counted(len(gained), 'new label')}" if gained else "It learned no new label"]
    said[0] += f" and forgot {counted(len(lost), 'label')}." if lost else "."
    if new.examples:
        said.append(
            f"On {new.examples:,} held-out examples of the new month it answers {as_change(new)}: {new.verdict}."
        )
    if past := comparison.past:
        worse, better = ([one for one in past if one.verdict == verdict] for verdict in ("worse", "better"))
        average = sum(one.points for one in past) / len(past)
        said.append(
            f"Of {counted(len(past), 'past month')} {len(better)} got better and {len(worse)} got worse beyond chance, "
            f"{average:+.1f} points on average."
        )
    if forgot := [one.name for one in comparison.labels if one.verdict == "worse"]:
        said.append(f"{counted(len(forgot), 'label')} got worse beyond chance, {forgot[0]} most.")
    said.append(f"Of all held-out examples {len(comparison.fixed)} were fixed and {len(comparison.broken)} broken.")
    if comparison.appeared:
        said.append(f"The confusion that grew most: {as_confusion(comparison.appeared[0])}.")
    return " ".join(said)


def words(card: Card, link: Mapping[str, str]) -> str:
    """The card in Markdown, for the version's description; `link` says where "card" and each of the runs is."""
    lines = [plain(sentence(card.comparison), 1000) if card.comparison else plain(card.lesson), ""]
    lines += [" · ".join([f"[{name}]({place})" for name, place in link.items()] + [f"rebuild it with `{NUMBER}`"]), ""]
    lines.append(in_markdown(UNTRIED).rstrip())
    if card.comparison:
        lines += ["", "## What got worse", "", *_worse(card.comparison)]
        lines += ["", "## What got better", "", *_better(card.comparison)]
    lines += ["", "## Which data made it", "", plain(card.lesson), "", *_data(card.sources)]
    if card.gates:
        lines += ["", "## Gates", ""]
        lines += [f"- {one.name}: {plain(one.reason)}{'' if one.passed else ' **(failed)**'}" for one in card.gates]
    return "\n".join(lines)


def page(card: Card) -> str:
    """The card in HTML: one file that fetches nothing, for a large screen or a phone, dark or light."""
    return TEMPLATES.get_template("card.html").render(
        card=card,
        compared=card.comparison,
        sentence=sentence(card.comparison) if card.comparison else card.lesson,
        trial=in_html(UNTRIED),
        rebuild=NUMBER,
        shown=SHOWN,
    )


def counted(count: int, what: str) -> str:
    """`1 label`, `2 labels`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def as_change(change: Change) -> str:
    """`60.0% → 72.0% right (+12.0 ± 4.1 points)`."""
    return f"{change.before:.1%} → {change.after:.1%} right ({change.points:+.1f} ± {change.noise:.1f} points)"


def as_confusion(confusion: Confusion) -> str:
    """`net.switch taken for db.sql (0 → 4)`."""
    return f"{confusion.right} taken for {confusion.answered} ({confusion.before} → {confusion.after})"


def _worse(comparison: Comparison) -> list[str]:
    lost = [f"label {label} is no longer known" for label in comparison.labels_lost]
    lost += [f"{one.name}: {as_change(one)}" for one in comparison.worse]
    beyond = lost or ["no month and no label lost more than chance may do"]
    slipped = [one for one in comparison.past if one.points < 0 and one.verdict != "worse"]
    slipped.sort(key=lambda one: one.points)
    within = [f"within chance, {one.name}: {as_change(one)}" for one in slipped[:SHOWN_IN_WORDS]]
    confused = [f"confused more: {as_confusion(one)}" for one in comparison.appeared[:SHOWN_IN_WORDS]]
    broken = [f"{counted(len(comparison.broken), 'held-out example')} that its parent had right; the card lists them"]
    return [f"- {plain(line)}" for line in (*beyond[:SHOWN], *within, *confused, *broken)]


def _better(comparison: Comparison) -> list[str]:
    gained = comparison.labels_gained
    won = [f"New labels: {', '.join(gained) if gained else 'none'}."]
    won += [f"{one.name}: {as_change(one)}" for one in comparison.better[:SHOWN]]
    won += [f"confused less: {as_confusion(one)}" for one in comparison.went[:SHOWN_IN_WORDS]]
    won.append(f"{counted(len(comparison.fixed), 'held-out example')} that its parent had wrong")
    return [f"- {plain(line)}" for line in won]


def _data(sources: Sequence[Source]) -> list[str]:
    """A table, the newest first; of a long chain the oldest are counted only, as the card lists them all."""
    lines = [
        "| snapshot | what | rows | held out | labels | from | to | DVC md5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    newest = sources[::-1]
    lines += [
        f"| {one.name} | {'new' if one.fresh else 'replayed'} | {one.rows:,} | {one.held_out:,} | {one.labels} | {one.first} "
        f"| {one.last} | {one.md5} |"
        for one in newest[:SHOWN]
    ]
    if len(newest) > SHOWN:
        lines += ["", f"and {counted(len(newest) - SHOWN, 'older snapshot')}, replayed; the card lists them."]
    return lines


def _environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined
    )
    templates.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "signed": lambda points: f"{points:+.1f}",
        "change": as_change,
        "confusion": as_confusion,
        "number": lambda count: f"{count:,}",
    }
    return templates


TEMPLATES = _environment()
