"""Continual learning on any dated stream: ours beside its parts and its rivals, month after month.

    python -m benchmarks.continual [--stream ansible|git|files] [--path P] [--labels N] [--months N] [--seeds N] [--quick] [--json]

The base learns what came before the last months (at most `base.max_records` of it); then each method learns a month, is asked
all of the next, and so on. Nothing is tuned to a stream. Each (method, seed, month) is kept once computed, for these parameters
and this code, so a run that was stopped goes on, and --so-far shows what there is. A seed of twelve months takes
hours, most of them from scratch's; --quick (one seed, three months, a smaller base) took nine minutes on two fast cores.

    next        accuracy on all of the month after the one just learned (prequential), over all questions
    past        accuracy on what all past months hold out, after the last update
    transfer    backward transfer: that accuracy less the accuracy just after each month was learned; `worst` of the months
    new         recall, in the month after, of labels that first appeared in the month just learned
    kept        of labels absent for six months and more: the share of their recall that is left
    off         expected calibration error on the next month
    compute     training tokens x active parameters of the updates, against training from scratch
    seconds     processor seconds of one update
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.continual_course import (
    BASELINE,
    SCRATCH,
    needs_base,
    one_thread,
    play,
    prepared_base,
    read_cell,
    stretches,
)
from benchmarks.continual_figures import Figures, figures, mean, picture, worst
from benchmarks.continual_stage import Stage, at_least, stage_asked_for, stream_arguments, with_defaults
from evermoe.errors import EvermoeError
from evermoe.quiet import silence
from evermoe.settings import ROOT, load_params

FROZEN = "frozen"
ORDER = (SCRATCH, "ours", "not averaged", "replay only", "distillation only", "EWC", "fine-tuning", BASELINE, FROZEN)
"""As the table has them."""


class Job(NamedTuple):
    """What one worker does at a time; the seed, where it is to make that one's base."""

    work: Callable[[], object]
    makes_base: int | None = None


def main() -> None:
    """Play what is not played yet, then print the table and draw the picture."""
    silence()
    options = arguments()
    try:
        stage = stage_asked_for(options, load_params(base=options.base))
    except EvermoeError as error:
        sys.exit(f"continual: {error}")
    folder = options.folder / key_of(stage)
    methods = [method for method in ORDER if method in options.methods]
    if not options.so_far:
        run(stage, methods, options, folder)
    found = {method: seeds for method in methods if (seeds := played(stage, method, options.seeds, folder))}
    if not found:
        sys.exit("continual: no method was played to the end yet")
    picture(found, options.stream if options.path is None else options.path.name, folder / "continual.png")
    if options.json:
        print(json.dumps(as_json(found, stage)))
    else:
        print_table(found, stage)
        print(f"picture and every answer: {folder}")


def run(stage: Stage, methods: Sequence[str], options: argparse.Namespace, folder: Path) -> None:
    """All courses, as many at a time as there are workers: the bases, then what goes on from one that is there, and where neither
    keeps a worker busy, what needs none."""
    seeds = range(options.seeds)
    courses = {(method, seed): course_folder(stage, method, seed, folder) for seed in seeds for method in methods}
    wanted = [place / f"{name}.json" for place in courses.values() for name in ("base", *stage.updates)]
    ready: list[Job] = [Job(partial(prepared_base, stage, seed, folder), seed) for seed in seeds]
    behind: dict[int | None, list[Job]] = {seed: [] for seed in seeds}
    free: list[Job] = []
    for (method, seed), place in courses.items():
        for stretch in stretches(stage, method):
            job = Job(partial(play, stage, method, seed, stretch, place))
            (behind[seed] if needs_base(method, stretch) else free).append(job)
    going: dict[Future[object], Job] = {}
    spawn = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(options.workers, spawn, one_thread) as pool,
        Progress(*columns, console=Console(stderr=True), transient=True) as bars,
    ):
        bar = bars.add_task("months", total=len(wanted))
        while ready or free or going:
            while len(going) < options.workers and (ready or free):
                job = (ready or free).pop(0)
                going[pool.submit(job.work)] = job
            done, _ = wait(going, timeout=1, return_when=FIRST_COMPLETED)
            for one in done:
                if one.exception():
                    pool.shutdown(cancel_futures=True)
                one.result()
                ready += behind.pop(going.pop(one).makes_base, [])
            bars.update(bar, completed=sum(file.exists() for file in wanted))


def key_of(stage: Stage) -> str:
    """The folder of this stream, these months and this base: its parameters, and the code that makes it."""
    content = [repr((stage.base, stage.months)), stage.params.model_dump_json(include={"model", "base"})]
    makes = code("model", "evermoe/words.py", *(f"flows/learning/{name}.py" for name in ("base", "examples", "recipe")))
    return digest(*content, *makes, *code("benchmarks/continual_course.py"))[:16]


def course_folder(stage: Stage, method: str, seed: int, folder: Path) -> Path:
    """Where a method's way is kept. Of an update's parameters and code only those methods know that make one."""
    if method in (SCRATCH, BASELINE, FROZEN):
        return folder / f"{method}-{seed}"
    makes = code("flows/learning/update.py", "flows/learning/caps.py", "benchmarks/continual_methods.py")
    return folder / f"{method}-{seed}-{digest(stage.params.update.model_dump_json(exclude={'seed'}), *makes)[:8]}"


def code(*places: str) -> list[str]:
    """The project's source in these files and folders."""
    files = (file for place in places for file in [ROOT / place, *sorted((ROOT / place).rglob("*.py"))])
    return [file.read_text(encoding="utf-8") for file in files if file.is_file()]


def digest(*content: str) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256("\n".join(content).encode("utf-8", "surrogatepass")).hexdigest()


def played(stage: Stage, method: str, seeds: int, folder: Path) -> list[Figures]:
    """Of each seed whose course was played to the end."""
    courses = [course_folder(stage, method, seed, folder) for seed in range(seeds)]
    names = ("base", *stage.updates)
    return [
        figures([read_cell(place / f"{name}.json") for name in names], list(stage.months))
        for place in courses
        if all((place / f"{name}.json").exists() for name in names)
    ]


COLUMNS = ("next", "past", "transfer", "new", "kept", "calibration_error")


def print_table(found: Mapping[str, Sequence[Figures]], stage: Stage) -> None:
    """A row a method: mean over seeds, and their standard deviation."""
    months = list(stage.months)
    rows = sum(map(len, stage.months.values()))
    most = max(map(len, found.values()))
    labels = len({row.label for some in (stage.base, *stage.months.values()) for row in some})
    print(
        f"{len(stage.base):,} records and then {rows:,} in {len(months)} months, {months[0]} to {months[-1]}; {labels} labels; "
        f"seeds: {most}"
    )
    print(
        f"{'':18}{'next':>12}{'past':>12}{'transfer':>12}{'worst month':>22}{'new':>12}{'kept':>12}{'off':>12}"
        f"{'compute':>9}{'seconds':>9}"
    )
    scratch = mean(one.compute for one in found.get(SCRATCH, ()))
    for method, seeds in found.items():
        cells = "".join(f"{spread([getattr(one, name) for one in seeds]):>12}" for name in COLUMNS[:3])
        name, change, error = worst(seeds)
        cells += f"{f'{100 * change:+.1f} ± {100 * error:.1f} {name}' if name else '-':>22}"
        cells += "".join(f"{spread([getattr(one, name) for one in seeds]):>12}" for name in COLUMNS[3:])
        compute = mean(one.compute for one in seeds)
        cost = f"{compute / scratch:.2f}" if scratch > 0 and compute > 0 else "-"
        name = method if len(seeds) == most else f"{method} ({len(seeds)})"
        print(f"{name:18}{cells}{cost:>9}{mean(one.seconds for one in seeds):9.1f}")


def spread(values: Sequence[float]) -> str:
    """Percent: mean, and standard deviation where there are several."""
    held = [100 * value for value in values if not math.isnan(value)]
    if not held:
        return "-"
    return f"{fmean(held):.1f}" + (f" ± {stdev(held):.1f}" if len(held) > 1 else "")


def as_json(found: Mapping[str, Sequence[Figures]], stage: Stage) -> dict[str, object]:
    """All figures of all seeds; what is not a number is null."""
    plain = {
        method: [
            {
                **{name: getattr(one, name) for name in (*COLUMNS, "compute", "seconds", "by_month")},
                "new_cases": len(one.new_hits),
                "kept_cases": one.kept_then,
                "changes": {month: mean(change) for month, change in one.changes.items()},
            }
            for one in seeds
        ]
        for method, seeds in found.items()
    }
    worst_months = {
        method: dict(zip(("month", "change", "error"), worst(seeds), strict=True)) for method, seeds in found.items()
    }
    content = {"months": list(stage.months), "base_records": len(stage.base), "methods": plain, "worst": worst_months}
    plain_json: dict[str, object] = json.loads(json.dumps(content), parse_constant=lambda name: None)
    return plain_json


def arguments() -> argparse.Namespace:
    """The command line. Ends the program where it cannot work."""
    parser = stream_arguments(__doc__)
    parser.add_argument(
        "--base", help="smollm2: a pretrained base, given experts; else one that is trained from nothing"
    )
    parser.add_argument("--methods", default=",".join(ORDER), help="comma-separated, of: %(default)s")
    parser.add_argument(
        "--so-far", action="store_true", help="compute nothing: show the methods and seeds that were played to the end"
    )
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=os.cpu_count(),
        help="trainings at a time, a core each (default: all cores)",
    )
    parser.add_argument("--folder", type=Path, default=Path(".cache/continual"), help="where what is computed is kept")
    options = with_defaults(parser.parse_args())
    options.methods = options.methods.split(",")
    if unknown := set(options.methods) - set(ORDER):
        parser.error(f"no method is called {unknown.pop()!r}; there are: {', '.join(ORDER)}")
    return options


if __name__ == "__main__":
    main()
