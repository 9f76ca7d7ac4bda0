"""What a benchmark of learning plays on: a stream of the user's, cut into a base and the months that follow it.

Knows the command line and the streams; no method and no figure.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evermoe.errors import BadInput
from evermoe.months import month_of
from evermoe.settings import Params, use_home
from flows.learning.base import prepare, rows_of
from registry.snapshots import SnapshotRow
from streams import STREAMS, Columns, Record, open_stream

FEWEST_MONTHS = 3
QUICK_RECORDS = 3000
QUICK_MONTHS = 3


@dataclass(frozen=True)
class Stage:
    """The months of a stream as a benchmark plays them: the base's rows, then one month after another."""

    base: tuple[SnapshotRow, ...]
    months: dict[str, tuple[SnapshotRow, ...]]
    params: Params

    @property
    def updates(self) -> list[str]:
        """The months that are learned: all but the last, which is only asked."""
        return list(self.months)[:-1]

    def rows(self, name: str) -> tuple[SnapshotRow, ...]:
        """Of a month, or of the `base`."""
        return self.base if name == "base" else self.months[name]


def stream_arguments(documentation: str | None) -> argparse.ArgumentParser:
    """What every benchmark on a stream of the user's asks for."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", choices=STREAMS, default="ansible")
    parser.add_argument("--path", type=Path, help="the repository of git, the file of files")
    for name in ("at", "text", "label"):
        parser.add_argument(f"--{name}", help=f"column of the {name} (files); usual names are found without it")
    parser.add_argument("--labels", type=at_least(2), help="only the so many commonest labels; without it, all")
    parser.add_argument("--months", type=at_least(2), help="months to learn, the last of the stream (default 12)")
    parser.add_argument("--seeds", type=at_least(1), help="how often all is done (default 3)")
    parser.add_argument("--quick", action="store_true", help="one seed, three months, a base of 3,000 records")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """A whole number from `least`, for the command line."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return number


def with_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """What was left open is filled in: less of it where it is to be quick."""
    options.months = options.months or (QUICK_MONTHS if options.quick else 12)
    options.seeds = options.seeds or (1 if options.quick else 3)
    return options


def stage_asked_for(options: argparse.Namespace, params: Params) -> Stage:
    """The stage of the stream that the command line names. Raises `EvermoeError` where there is none."""
    if options.quick:
        params = params.model_copy(update={"base": params.base.model_copy(update={"max_records": QUICK_RECORDS})})
    return stage_of(list(open_records(options)), params, options.months)


def open_records(options: argparse.Namespace) -> Iterable[Record]:
    """The stream's labelled records, of the commonest labels where only so many are wanted."""
    columns = Columns(at=options.at, text=options.text, label=options.label)
    stream = open_stream(options.stream, path=options.path, cache=use_home(None).cache, columns=columns)
    records = [record for record in stream.records() if record.label is not None]
    kept = {label for label, _ in Counter(record.label for record in records).most_common(options.labels)}
    return (record for record in records if record.label in kept)


def stage_of(records: Sequence[Record], params: Params, count: int) -> Stage:
    """The base's rows and the last months. Raises `BadInput` for a stream that is too short to have both."""
    months = sorted({month_of(record.at) for record in records})
    if len(months) <= FEWEST_MONTHS:
        raise BadInput(
            f"the stream has {len(months)} months; four and more are needed to learn some and be asked others"
        )
    last = months[-count - 1 :] if len(months) > count + 1 else months[-max(FEWEST_MONTHS, len(months) // 2) :]
    rows: dict[str, list[SnapshotRow]] = {name: [] for name in last}
    for row in rows_of([record for record in records if month_of(record.at) >= last[0]]):
        rows[month_of(row.at)].append(row)
    base = prepare(records, last[0], params.base.max_records)
    return Stage(tuple(base), {name: tuple(some) for name, some in rows.items()}, params)
