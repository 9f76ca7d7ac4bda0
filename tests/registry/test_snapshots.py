"""Snapshots: frozen once, the same bytes for the same rows, restored from the remote, never misread. Real DVC throughout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.errors import BadInput, NotFound, StorageUnavailable
from registry.snapshots import SnapshotRow, Snapshots

JUNE = datetime(2025, 6, 1, tzinfo=UTC)
ROWS = tuple(
    SnapshotRow(text, "net.switch", unit, JUNE + timedelta(hours=hour), f"response:{hour}")
    for hour, (text, unit) in enumerate(
        [("fix the vlan", "ann"), ("修复端口\u2028", None), ("half \ud800 a pair", "bob")]
    )
)


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def lose(snapshots: Snapshots) -> None:
    """Delete the files and DVC's cache: only the remote is left."""
    shutil.rmtree(snapshots.home / ".dvc" / "cache")
    for path in snapshots.folder.glob("*.jsonl"):
        path.unlink()


def test_what_was_frozen_is_loaded_back_the_same(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    frozen = snapshots.freeze("2025-06", ROWS[::-1])
    assert (frozen.name, frozen.rows, frozen.path) == ("2025-06", 3, tmp_path / "snapshots" / "2025-06.jsonl")
    assert Snapshots(tmp_path).load("2025-06") == ROWS
    assert Snapshots(tmp_path).names() == ("2025-06",)


def test_the_same_rows_in_another_order_and_another_home_have_the_same_md5(tmp_path: Path) -> None:
    one = Snapshots(tmp_path / "one").freeze("2025-06", ROWS)
    assert Snapshots(tmp_path / "two").freeze("2025-06", ROWS[::-1]).md5 == one.md5


def test_a_second_freeze_of_a_name_changes_nothing(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    first = snapshots.freeze("2025-06", ROWS)
    assert snapshots.freeze("2025-06", ROWS[:1]) == first
    assert snapshots.load("2025-06") == ROWS


def test_a_lost_file_and_cache_are_pulled_from_the_remote(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.freeze("2025-06", ROWS)
    lose(snapshots)
    assert snapshots.load("2025-06") == ROWS


def test_the_home_is_a_dvc_project_inside_a_repository_that_ignores_it_and_is_one_itself(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    dvc(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("/.evermoe/\n")
    home = tmp_path / ".evermoe"
    snapshots = Snapshots(home)
    snapshots.freeze("2025-06", ROWS)
    assert dvc(home, "root").strip() == "."
    assert "up to date" in dvc(home, "status")
    assert "up to date" in dvc(tmp_path, "status") or "no data or pipelines" in dvc(tmp_path, "status")
    lose(snapshots)
    dvc(home, "pull")
    assert snapshots.load("2025-06") == ROWS


def test_a_home_that_moved_still_finds_its_remote(tmp_path: Path) -> None:
    Snapshots(tmp_path / "old").freeze("2025-06", ROWS)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Snapshots(tmp_path / "new")
    lose(moved)
    assert moved.load("2025-06") == ROWS


def test_a_freeze_that_died_before_tracking_is_completed_by_the_next(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.freeze("2025-05", ROWS)
    (tmp_path / "snapshots" / "2025-06.jsonl").write_text('{"at": "half a fi')
    assert snapshots.names() == ("2025-05",)
    snapshots.freeze("2025-06", ROWS)
    assert snapshots.load("2025-06") == ROWS


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 80])
def test_a_tracker_that_a_full_disk_cut_short_tracks_nothing_and_is_written_again(tmp_path: Path, kept: int) -> None:
    snapshots = Snapshots(tmp_path)
    frozen = snapshots.freeze("2025-06", ROWS)
    tracker = frozen.path.with_name("2025-06.jsonl.dvc")
    whole = tracker.read_bytes()
    tracker.write_bytes(whole[:kept])
    assert snapshots.names() == ()
    with pytest.raises(BadInput, match=r"2025-06\.jsonl\.dvc: not a DVC file"):
        snapshots.load("2025-06")
    snapshots.freeze("2025-07", ROWS)  # DVC alone would refuse to
    assert snapshots.freeze("2025-06", ROWS) == frozen
    assert tracker.read_bytes() == whole


def test_a_freeze_that_died_before_the_push_is_pushed_by_the_next(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.freeze("2025-06", ROWS)
    shutil.rmtree(tmp_path / "dvc-remote")
    snapshots.freeze("2025-06", ROWS)
    lose(snapshots)
    assert snapshots.load("2025-06") == ROWS


def test_a_file_changed_after_freezing_is_named_and_not_used(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    path = snapshots.freeze("2025-06", ROWS).path
    path.write_bytes(path.read_bytes().replace(b"net.switch", b"net.router", 1))
    with pytest.raises(BadInput, match=r"2025-06\.jsonl: changed since it was frozen"):
        snapshots.load("2025-06")
    path.unlink()
    assert snapshots.load("2025-06") == ROWS  # as the message says


def test_a_file_changed_together_with_its_tracker_is_not_the_one_with_the_hash_of_before(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    before = snapshots.freeze("2025-06", ROWS)
    assert snapshots.require("2025-06", before.md5) == before
    before.path.with_name("2025-06.jsonl.dvc").unlink()
    after = snapshots.freeze("2025-06", ROWS[:1])
    with pytest.raises(BadInput, match=rf"2025-06\.jsonl: .* its md5 is {after.md5}, not {before.md5}"):
        snapshots.require("2025-06", before.md5)


def test_a_snapshot_nobody_can_restore_is_one_clear_line(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.freeze("2025-06", ROWS)
    lose(snapshots)
    shutil.rmtree(tmp_path / "dvc-remote")
    with pytest.raises(StorageUnavailable, match=r"2025-06\.jsonl: DVC says") as error:
        snapshots.load("2025-06")
    assert "\n" not in str(error.value)


def test_an_unknown_snapshot_is_named_with_those_there_are(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.freeze("2025-06", ROWS)
    with pytest.raises(NotFound, match=r"'2025-07'.*2025-06"):
        snapshots.load("2025-07")


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no name"):
        Snapshots(tmp_path).freeze(name, ROWS)


def test_a_month_without_rows_is_not_frozen(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no rows"):
        Snapshots(tmp_path).freeze("2025-06", [])
    assert Snapshots(tmp_path).names() == ()


def test_two_that_freeze_at_once_get_the_same_snapshot_and_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: Snapshots(tmp_path).freeze("2025-06", ROWS), range(2))
    assert one == two
    assert capfd.readouterr().out == ""
