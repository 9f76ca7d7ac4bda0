"""The checks of a month's rows as a step of the update: a month that fails one is not learned, and it is said why.

Every snapshot that the champion has not learned is looked at by itself, against the months the champion has learned. One that
fails is left out and stays unlearned, so a poisoned month does not come back diluted in the next one's update; when it is the
month that was asked for, there is no update. Where a reviewer looks: the run `gates` of the month in MLflow (tags, note,
checks.html), the artifact `update-MONTH` in Prefect, and what the command prints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from evermoe.months import month_of
from flows.gates.overrides import OVERRIDDEN, Override
from flows.gates.pages import note, page, quoted
from flows.learning.update import Material
from flows.lineage.candidate import attempt
from flows.runtime.parts import Parts
from flows.runtime.steps import step
from flows.snapshots.learned import beginnings, learned_rows, news
from monitoring.checks import ENOUGH, Check, CheckPolicy, inspect, usual_figures
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker.versions import Version

STOPPED = "evermoe.stopped"  # on the run: which checks stopped the update, and why, as JSON


@dataclass(frozen=True)
class Fit:
    """The snapshots that may be learned, and the checks that the month itself failed."""

    snapshots: tuple[str, ...]
    failed: tuple[Check, ...]


@step(name="check the month's rows")
def check_rows(parts: Parts, champion: Version, fresh: Sequence[str], period: str, override: Override | None) -> Fit:
    """Look at each of the snapshots `fresh`; an override lets the month itself pass the checks that it names."""
    policy = CheckPolicy(**parts.params.checks.model_dump())
    found = looked_at(parts.snapshots, champion, fresh, policy)
    allowed = set(override.names) if override else set()
    failed = {name: [check for check in checks if not check.passed] for name, checks in found.items()}
    stopping = tuple(check for check in failed.get(period, []) if check.name not in allowed)
    fit = tuple(name for name in fresh if not failed[name] or (name == period and not stopping))
    _record(parts, (period, champion.version), found, fit, override)
    return Fit(fit, stopping)


def looked_at(
    snapshots: Snapshots, champion: Version, fresh: Iterable[str], policy: CheckPolicy
) -> dict[str, tuple[Check, ...]]:
    """How the checks end for each of the snapshots `fresh`.

    A month, or so much of it as there is, passes where its beginnings pass that were frozen by themselves, because it drifted: what
    was stopped in a half of it does not come back diluted in the whole. Nor do rows that the champion has learned dilute the rest.
    """
    before = learned_rows(snapshots, champion)
    past = [told(month) for month in by_month(before)]
    known = [row for month in past for row in month]

    def seen(name: str) -> tuple[Check, ...]:
        rows = told(news(snapshots, [name], before))
        return inspect(rows, known, usual_figures(past, len(rows), policy), policy)

    return {name: worst_of([seen(name), *map(seen, beginnings(snapshots, champion, name))]) for name in fresh}


def worst_of(looks: Sequence[tuple[Check, ...]]) -> tuple[Check, ...]:
    """Of each check the first look that failed, or else the first."""
    return tuple(min(checks, key=lambda check: check.passed) for checks in zip(*looks, strict=True))


def enough(material: Material, least: int, already: str = "") -> tuple[Check, ...]:
    """The check of what is left to learn from, where it fails. `already` says who has learned it."""
    if len(material.domain) >= least and material.new_exam:
        return ()
    if already:
        return (Check(ENOUGH, False, 0.0, float(least), f"{already}; there is nothing new to learn"),)
    reason = (
        f"{len(material.domain)} labelled examples to learn from and {len(material.new_exam)} to examine with are too few, "
        f"{least} and 1 are needed; they stay for the next month"
    )
    return (Check(ENOUGH, False, float(len(material.domain)), float(least), reason),)


def stop(parts: Parts, champion: Version, period: str, failed: Sequence[Check]) -> None:
    """Say why there is no update, where a reviewer looks for one."""
    lines = [f"# No update for {period}", "", "The champion stays. What stopped the update:", ""]
    lines += [f"- **{check.name}**: {quoted(check.reason, most=1000)}" for check in failed]
    for check in failed:
        if check.examples:
            lines += ["", f"## Rows that show it: {check.name}", ""]
            lines += [f"- {quoted(example)}" for example in check.examples]
    if any(check.name != ENOUGH for check in failed):
        names = " ".join(f'--override "{check.name}"' for check in failed)
        lines += [
            "",
            f"If the rows are right all the same: `evermoe update {period[:7]} {names} --by NAME --reason TEXT`.",
        ]
    markdown = "\n".join(lines)
    with parts.tracking.step(period[:7], "gates", attempt(period, champion.version)) as run:
        run.tags(
            {
                STOPPED: json.dumps([{"check": check.name, "reason": check.reason} for check in failed]),
                **{check_tag(check.name): check.reason for check in failed},
            }
        )
        run.describe(note(markdown))
        run.html(page(f"No update for {period}", markdown), "checks.html")
    create_markdown_artifact(markdown, key=f"update-{period}", description=f"Why nothing was learned in {period}")


def stopped(parts: Parts, period: str) -> list[dict[str, str]]:
    """Which checks stopped the update of a period, each with its reason, as MLflow has it; none where it was not stopped."""
    champion = parts.versions.champion()
    with parts.tracking.step(period[:7], "gates", attempt(period, champion.version if champion else None)) as run:
        said = run.client.get_run(run.run_id).data.tags.get(STOPPED, "[]")
    found: list[dict[str, str]] = json.loads(said)
    return found


@dataclass(frozen=True)
class Told:
    """A right answer that a user told."""

    text: str
    label: str
    unit: str | None


def told(rows: Iterable[SnapshotRow]) -> list[Told]:
    """The rows that say what is right: thumbs and bare texts say nothing of labels."""
    return [Told(row.text, row.label, row.unit) for row in rows if row.label is not None]


def by_month(rows: Iterable[SnapshotRow]) -> list[list[SnapshotRow]]:
    """Rows in the order of time, month by month."""
    months: dict[str, list[SnapshotRow]] = defaultdict(list)
    for row in rows:
        months[month_of(row.at)].append(row)
    return [months[month] for month in sorted(months)]


def _record(
    parts: Parts,
    made: tuple[str, str],
    found: Mapping[str, Sequence[Check]],
    fit: Sequence[str],
    override: Override | None,
) -> None:
    """What the checks said, passed or not."""
    period = made[0]
    tags, table = {STOPPED: "[]", "evermoe.left_out": ""}, []
    for name, checks in found.items():
        for check in checks:
            said = "passed" if check.passed else check.reason
            if not check.passed and name in fit and override:
                said = f"{OVERRIDDEN} by {override.by} ({override.reason}): {check.reason}"
            if name == period:
                tags[check_tag(check.name)] = said
            table.append({"month": name, "check": check.name, "said": said, "figure": f"{check.value:.2f}"})
    if left := [name for name in found if name not in fit and name != period]:
        tags["evermoe.left_out"] = "; ".join(
            f"{name}: {check.name}: {check.reason}" for name in left for check in found[name] if not check.passed
        )
    with parts.tracking.step(period[:7], "gates", attempt(*made)) as run:
        run.tags(tags)
        run.params({f"checks.{name}": value for name, value in parts.params.checks.model_dump().items()})
    if table:
        create_table_artifact(table, key=f"checks-{period}", description=f"Checks of the rows of {period}")


def check_tag(name: str) -> str:
    """The tag on the run that says how a check ended."""
    return f"evermoe.check.{name.replace(' ', '_')}"
