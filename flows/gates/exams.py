"""The examination of a challenger: both models on the same held-out rows, and what a reviewer reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from evermoe.settings import GateParams
from flows.gates.pages import cell, quoted
from model import Example, Gate, LanguageModel, judge
from model.evaluate import latencies, score, weight_bytes
from model.gates import Contest, Limits
from model.slices import Slice, slices

TIMED_TEXTS = 30


@dataclass(frozen=True)
class ExamReport:
    """The verdicts, the figures for MLflow, the page in words, and what both models did, for who wants to say more of it."""

    gates: tuple[Gate, ...]
    metrics: dict[str, float]
    markdown: str
    champion: Contest
    challenger: Contest


def sit(
    champion: LanguageModel,
    challenger: LanguageModel,
    new: Sequence[Example],
    past: Mapping[str, Sequence[Example]],
    params: GateParams,
) -> ExamReport:
    """Examine both on the new rows and month by month on the past, and on slices of both; time them side by side, and judge."""
    models = {"champion": champion, "challenger": challenger}
    times = latencies(list(models.values()), [example.text for example in new[:TIMED_TEXTS]])
    every = [*new, *(example for examples in past.values() for example in examples)]
    found = slices(every, params.rare_share)
    contests = {
        name: _contest(model, every, len(new), {month: len(examples) for month, examples in past.items()}, found, spent)
        for (name, model), spent in zip(models.items(), times, strict=True)
    }
    chosen = params.model_dump(exclude={"examples_per_month", "examples_in_all", "rare_share"})
    gates = judge(contests["champion"], contests["challenger"], Limits(**chosen))
    return ExamReport(gates, _metrics(contests), _markdown(contests, gates, found), **contests)


def _contest(
    model: LanguageModel,
    every: Sequence[Example],
    new: int,
    past: Mapping[str, int],
    found: Sequence[Slice],
    milliseconds: float,
) -> Contest:
    """One model's figures: it answers each of `every` once, the first `new` of which are new and the others of `past` months."""
    answers = model.classify([example.text for example in every]) if every else []
    ends = [*accumulate(past.values(), initial=new)]
    return Contest(
        new=score(every[:new], answers[:new]),
        past={
            month: score(every[start:end], answers[start:end])
            for month, (start, end) in zip(past, pairwise(ends), strict=True)
        },
        latency_ms=milliseconds,
        weight_bytes=weight_bytes(model),
        slices={
            one.name: score([every[place] for place in one.places], [answers[place] for place in one.places])
            for one in found
        },
    )


def _metrics(contests: Mapping[str, Contest]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, contest in contests.items():
        found[f"{name}.new.accuracy"] = contest.new.accuracy
        found[f"{name}.new.macro_f1"] = contest.new.macro_f1
        found[f"{name}.new.calibration_error"] = contest.new.calibration_error
        found[f"{name}.latency_ms"] = contest.latency_ms
        found[f"{name}.weight_bytes"] = contest.weight_bytes
        found.update({f"{name}.past.{month}": evaluation.accuracy for month, evaluation in contest.past.items()})
        found.update({f"{name}.slice.{one}": evaluation.accuracy for one, evaluation in contest.slices.items()})
    return found


def _markdown(contests: Mapping[str, Contest], gates: Sequence[Gate], found: Sequence[Slice]) -> str:
    champion, challenger = contests["champion"], contests["challenger"]
    lines = ["# Gates", "", "| gate | passed | why |", "|---|---|---|"]
    lines += [f"| {gate.name} | {'yes' if gate.passed else '**no**'} | {gate.reason} |" for gate in gates]
    for gate in gates:
        if gate.examples:
            lines += ["", f"## {gate.name}: the champion was right, the challenger is wrong", ""]
            lines += ["| text | right, and the champion's answer | the challenger's answer |", "|---|---|---|"]
            lines += [f"| {cell(one.text)} | {cell(one.right)} | {cell(one.challenger)} |" for one in gate.examples]
    lines += ["", "## Held out", "", "| rows | examples | champion | challenger |", "|---|---|---|---|"]
    rows = [("new", champion.new, challenger.new)]
    rows += [(f"{one.name}, {one.words}", champion.slices[one.name], challenger.slices[one.name]) for one in found]
    rows += [(month, champion.past[month], evaluation) for month, evaluation in challenger.past.items()]
    lines += [f"| {name} | {one.examples} | {one.accuracy:.1%} | {other.accuracy:.1%} |" for name, one, other in rows]
    lines += ["", "## Where the challenger errs on the new rows", ""]
    lines += [
        f"- *{quoted(text)}*: {quoted(right)}, answered {quoted(answered)}"
        for text, right, answered in challenger.new.mistakes
    ]
    return "\n".join(lines)
