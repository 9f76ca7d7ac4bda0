"""What a demo shows at its end: a table, a picture, a JSON file, and where to look next. Computes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from commands.demo_run import Month, Result

SERIES = {"frozen": "frozen base", "platform": "platform", "baseline": "TF-IDF + LR"}
COLOURS = {"frozen": "#8a8f98", "platform": "#d1495b", "baseline": "#30638e"}


def print_report(result: Result, home: Path) -> None:
    """The table by month on stdout, and how to open what was made."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # in a file or a pipe the reasons need not fold
    table = Table(title="What users met, month by month", title_justify="left", header_style="bold")
    table.add_column("month", no_wrap=True)
    table.add_column("drift")
    for name in SERIES.values():
        table.add_column(name, justify="right", min_width=8)
    table.add_column("challenger's share", min_width=10)
    table.add_column("decision", no_wrap=True)
    table.add_column("why", ratio=1)
    for month in result.months:
        table.add_row(
            month.month,
            "yes" if month.drift else "no",
            *(percent(month.accuracy.get(name)) for name in SERIES),
            shares_in_words(month),
            Text(month.decision, style="bold" if month.decision in ("promote", "abort") else ""),
            Text(month.reason),
        )
    table.add_section()
    table.add_row("average", "", *(percent(average(result, name)) for name in SERIES), "", "", "")
    console.print(table)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    console.print(f"Champion: version {result.champion}.  Time: {seconds}.", highlight=False)
    console.print(f"Picture: {home / 'demo.png'}   Figures: {home / 'demo.json'}", highlight=False, markup=False)
    option = "" if home.name == ".evermoe" else escape(f" --home {home}")
    console.print(
        f"Look around: [bold]evermoe up{option}[/bold] (or make up) serves the console, MLflow and Prefect on what was made."
    )


def shares_in_words(month: Month) -> str:
    """`0 5 10 25 50 100` per cent, each change once."""
    changes: list[str] = []
    for share in month.shares:
        shown = f"{100 * share:.0f}"
        if (not changes or changes[-1] != shown) and changes[-1:] != ["100"]:  # what follows a promotion is no share
            changes.append(shown)
    return " ".join(changes) + " %" if changes else "-"


def percent(value: float | None) -> str:
    """A share as it stands in the table."""
    return "-" if value is None else f"{100 * value:.1f}"


def average(result: Result, name: str) -> float | None:
    """Mean over the months in which somebody asked."""
    values = [value for month in result.months if (value := month.accuracy.get(name)) is not None]
    return fmean(values) if values else None


def write_json(result: Result, file: Path) -> None:
    """The figures for whoever comes later."""
    file.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")


def draw(result: Result, file: Path) -> None:
    """Accuracy by month as lines, the challenger's share below as steps, promotions marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [month.month for month in result.months]
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(3, 1), layout="constrained")
    for name, label in SERIES.items():
        values = [100 * v if (v := month.accuracy.get(name)) is not None else float("nan") for month in result.months]
        above.plot(range(len(names)), values, marker="o", color=COLOURS[name], label=label, linewidth=2)
    for index, month in enumerate(result.months):
        if month.drift:
            above.axvspan(index - 0.5, index + 0.5, color="#f2e8cf", zorder=0)
        if month.decision in ("promote", "abort"):
            above.annotate(
                month.decision, (index, 1), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=9
            )
        if month.shares:
            places = [index - 0.5 + (look + 0.5) / len(month.shares) for look in range(len(month.shares))]
            below.step(places, [100 * share for share in month.shares], where="mid", color=COLOURS["platform"])
    above.set(ylabel="right answers, %", ylim=(0, 100), title="A shaded month was judged to have drifted")
    above.legend(loc="lower right", frameon=False)
    below.set(ylabel="challenger's\nshare, %", ylim=(0, 105), xticks=range(len(names)), xticklabels=names)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(file, dpi=150)
    plt.close(figure)
