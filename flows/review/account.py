"""The account a version gives of itself: compared with its parent while both are at hand, kept with its run, filled in later.

Calls `model/compare.py` for what changed, `card.py` for the pages, and the registry for where they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from flows.gates.exams import ExamReport
from flows.learning.update import Material, Taught
from flows.lineage.candidate import WHY_UNTRIED, attempt
from flows.review.card import Card, Source, figures_of, page
from flows.runtime.parts import Parts
from model import LanguageModel
from model.compare import Comparison, Examined, compare, expert_load
from registry.actions.controls import TOLD, Controls
from registry.snapshots import Snapshots
from registry.tracker.pages import CARD, Told
from registry.tracker.runs import StepName, StepRun
from registry.tracker.versions import Version

ROUTED_TEXTS = 256
"""How many of the held-out texts show where the routers send their tokens."""


def compared(incumbent: LanguageModel, challenger: LanguageModel, report: ExamReport, material: Material) -> Comparison:
    """The challenger beside its parent, on the answers that the examination already has."""
    held_out = [*material.new_exam, *(example for some in material.past_exam.values() for example in some)]
    texts = [example.text for example in held_out[:: max(1, -(-len(held_out) // ROUTED_TEXTS))]]
    parent, child = (
        Examined(model.labels, contest.new, contest.past, expert_load(model, texts))
        for model, contest in ((incumbent, report.champion), (challenger, report.challenger))
    )
    return compare(parent, child, material.new_exam, material.past_exam)


def monthly_card(
    parts: Parts,
    incumbent: LanguageModel,
    taught: Taught,
    material: Material,
    sources: Sequence[Source],
    report: ExamReport,
    made: tuple[str, str],
) -> Card:
    """The card of a challenger, whose parent is `incumbent`; `made` is its period and its parent's version."""
    challenger, (period, parent) = taught.challenger, made
    comparison = compared(incumbent, challenger, report, material)
    examined = sum(len(examples) for examples in material.past_exam.values())
    steps: dict[StepName, str] = dict.fromkeys(("snapshot", "train", "distil", "align"), period)
    steps["gates"] = attempt(*made)
    runs = {name: parts.tracking.find(period[:7], name, key) for name, key in steps.items()}
    return Card(
        period=period,
        parent=parent,
        labels=challenger.labels,
        lesson=(
            f"A copy of version {parent}, taught {len(material.domain):,} new examples with {len(material.replayed):,} replayed "
            f"ones; examined on {len(material.new_exam):,} new and {examined:,} past examples that no version ever trains on. Its "
            f"weights are {taught.taught_share:.0%} what it was taught and {1 - taught.taught_share:.0%} its parent's."
        ),
        sources=tuple(sources),
        gates=report.gates,
        comparison=comparison,
        figures=figures_of(report.challenger, challenger.labels, comparison)
        | {"taught_share": taught.taught_share, "temperature": challenger.temperature},
        runs={f"run {name}": run_id for name, run_id in runs.items() if run_id},
    )


def keep(parts: Parts, run: StepRun, card: Card) -> dict[str, str]:
    """The whole card as an artifact of the run that registers the version; where a reader of its description finds it all."""
    run.html(page(card), CARD)
    name_data(run, parts.snapshots, card.sources)
    link = {"the whole card": parts.tracking.link(run.run_id, f"/artifacts/{CARD}")}
    return link | {name: parts.tracking.link(run_id) for name, run_id in card.runs.items()}


def name_data(run: StepRun, snapshots: Snapshots, sources: Sequence[Source]) -> None:
    """The snapshots as a run's inputs, the newest first: what is trained on, and what is held out of each to examine with."""
    for one in reversed(sources):
        snapshot = snapshots.get(one.name)
        run.dataset(snapshot, "training")
        if one.held_out:
            run.dataset(snapshot, "evaluation", part="held-out", rows=one.held_out)


def present(parts: Parts, number: str) -> None:
    """Fill in the number of a version, and why it is not on trial where it is not. Once it was, its trial is told by
    `registry.actions.controls`."""
    version = parts.versions.get(number)
    if TOLD not in version.tags:
        Controls(parts.ledger, parts.versions, parts.tracking).tell(version, untried(version))


def untried(version: Version) -> Told:
    """Why a version has met no user yet, from its tags."""
    if version.parent is None:
        return Told("It is the first, and champion at once: there was nobody to compare it with.")
    failed = version.tags.get("evermoe.gates_failed")
    if failed and version.tags.get("evermoe.gates") == "failed":  # and was not let go by a person
        return Told(
            f"Version {version.parent} stays: this one failed at the gates, and meets no users.", (("why", failed),)
        )
    if reason := version.tags.get(WHY_UNTRIED):
        return Told("It has met no users.", (("why", reason),))
    return Told("It has met no users yet.")
