"""The examination of a challenger: both models on the same held-out rows, and what a reviewer reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evermoe.settings import GateParams
from model import Example, Gate, LanguageModel, evaluate, judge
from model.evaluate import latencies, weight_bytes
from model.gates import Contest, Limits

TIMED_TEXTS = 30


@dataclass(frozen=True)
class ExamReport:
    """The verdicts, the figures for MLflow, the page in words, and what each model answered."""

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
    """Examine both on the new rows and month by month on the past, time them side by side, and judge."""
    models = {"champion": champion, "challenger": challenger}
    times = latencies(list(models.values()), [example.text for example in new[:TIMED_TEXTS]])
    contests = {
        name: Contest(
            new=evaluate(model, new, timed=0),
            past={month: evaluate(model, examples, timed=0) for month, examples in past.items()},
            latency_ms=milliseconds,
            weight_bytes=weight_bytes(model),
        )
        for (name, model), milliseconds in zip(models.items(), times, strict=True)
    }
    limits = Limits(**params.model_dump(exclude={"examples_per_month"}))
    gates = judge(contests["champion"], contests["challenger"], limits)
    return ExamReport(
        gates, _metrics(contests), _markdown(contests, gates), contests["champion"], contests["challenger"]
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
    return found


def _markdown(contests: Mapping[str, Contest], gates: Sequence[Gate]) -> str:
    champion, challenger = contests["champion"], contests["challenger"]
    lines = ["# Gates", "", "| gate | passed | why |", "|---|---|---|"]
    lines += [f"| {gate.name} | {'yes' if gate.passed else '**no**'} | {gate.reason} |" for gate in gates]
    lines += ["", "| held out | examples | champion | challenger |", "|---|---|---|---|"]
    rows = [("new", champion.new, challenger.new)]
    rows += [(month, champion.past[month], evaluation) for month, evaluation in challenger.past.items()]
    lines += [f"| {name} | {one.examples} | {one.accuracy:.1%} | {other.accuracy:.1%} |" for name, one, other in rows]
    lines += ["", "## Where the challenger errs on the new rows", ""]
    lines += [f"- *{text}*: {right}, answered {answered}" for text, right, answered in challenger.new.mistakes]
    return "\n".join(lines)
