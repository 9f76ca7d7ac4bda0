"""Three versions of a chain, made again from their lineage: the same bytes, or one line that says what stands in the way."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from commands.main import run
from evermoe.errors import BadInput, Conflict, NotFound
from evermoe.months import end_of, start_of
from evermoe.settings import ROOT, settings
from flows.lineage.candidate import LOADER
from flows.lineage.record import changed_since, digests, read_lineage
from flows.lineage.reproduce import Link, Rebuilt, chain, reproduce
from flows.runtime.parts import Parts, open_parts
from tests.flows.test_loop import OLD, SMALL, Platform, prefect, texts, write_params, write_stream

__all__ = ["prefect"]
BRIEF = {"epochs": 1, "distil_epochs": 1}
LENIENT = {"label_noise": 1.0}  # a month of 120 rows is small for a third of it to be of a new label
EASY = {**SMALL["gates"], "new_month_gain": -100.0, "past_month_loss": 100.0, "past_average_loss": 100.0}


@pytest.fixture(scope="module")
def parts(prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A base, a second version from it and a third from the second."""
    from flows.base import base
    from flows.monthly import monthly

    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERMOE_HOME", str(folder / "home"))
        patch.setenv("EVERMOE_PARAMS", str(write_params(folder, update=BRIEF, gates=EASY, checks=LENIENT)))
        patch.setattr("flows.gates.exams.TIMED_TEXTS", 3)
        settings.cache_clear()
        assert base("files", str(write_stream(folder)), "2025-06") == "1"
        with open_parts() as opened:
            platform = Platform(opened, folder)
            for month, version, skipped in (("2025-06", "2", 0), ("2025-07", "3", 120)):
                asked = itertools.islice(texts(*OLD, "web.page"), skipped, skipped + 120)
                for number, (text, label) in enumerate(asked):
                    at = start_of(month) + timedelta(days=1, hours=2.5 * number)
                    platform.ask(at, f"{text} again", label, answer="db.sql")
                assert monthly(month, end_of(month)) == version
                opened.versions.set_alias("champion", version)
            yield opened
    settings.cache_clear()


def remade(parts: Parts, version: str, into: Path, *, from_base: bool = False) -> list[Rebuilt]:
    links = chain(parts.versions, version, from_base)
    return list(reproduce(parts.versions, parts.snapshots, links, into))


def test_the_lineage_records_all_that_a_version_was_made_from(parts: Parts) -> None:
    second, third = read_lineage(parts.versions, "2"), read_lineage(parts.versions, "3")
    assert (third.period, third.parent, list(third.fresh), list(third.replay)) == (
        *("2025-07", "2", ["2025-07"]),
        ["base", "2025-06"],
    )
    assert third.replay["2025-06"] == parts.snapshots.get("2025-06").md5
    assert third.parent_files == second.files == digests(parts.versions.weights("2"))
    assert third.params == parts.params.model_dump(mode="json")
    assert third.seeds == {"base": 1, "update": 1, "demo": 1}
    assert set(third.teachers) == {"new model", "champion"}
    assert all(gate["passed"] for gate in third.gates)
    assert {"python", "torch", "tokenizers"} <= set(third.libraries)
    assert changed_since(third) == ()
    assert parts.versions.get("3").tags["evermoe.dvc"] == json.dumps(third.snapshots)


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_a_version_is_made_again_bit_for_bit(parts: Parts, version: str, tmp_path: Path) -> None:
    (rebuilt,) = remade(parts, version, tmp_path)
    assert rebuilt.differences == ()
    assert digests(rebuilt.folder) == digests(parts.versions.weights(version))
    assert "model.safetensors" in rebuilt.files


def test_the_whole_chain_is_made_again_in_a_fresh_process_with_the_parameters_of_then(
    parts: Parts, tmp_path: Path
) -> None:
    today = write_params(tmp_path, update={"seed": 7, "epochs": 3}, base={"seed": 7})
    command = [sys.executable, "-m", "commands.main", "reproduce", "3", "--from-base", "--json"]
    command += ["--home", str(settings().home), "--into", str(tmp_path / "made")]
    env = os.environ | {"EVERMOE_PARAMS": str(today)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(one["version"], one["identical"]) for one in said["versions"]] == [("1", True), ("2", True), ("3", True)]
    assert digests(tmp_path / "made" / "version-3") == digests(parts.versions.weights("3"))


def test_a_snapshot_with_one_byte_changed_is_refused_by_name(parts: Parts, tmp_path: Path) -> None:
    path = parts.snapshots.get("2025-06").path
    whole = path.read_bytes()
    try:
        path.chmod(0o644)
        path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        with pytest.raises(BadInput, match=r"2025-06\.jsonl: changed since it was frozen"):
            remade(parts, "3", tmp_path / "made")
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "made").exists()


def test_a_snapshot_changed_together_with_its_tracker_is_refused_by_name(parts: Parts, tmp_path: Path) -> None:
    path = parts.snapshots.get("2025-06").path
    tracker = path.with_name(f"{path.name}.dvc")
    whole, tracked = path.read_bytes(), tracker.read_text()
    changed = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    md5 = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in (whole, changed)]
    try:
        path.chmod(0o644)
        path.write_bytes(changed)
        tracker.write_text(tracked.replace(*md5))
        assert parts.snapshots.get("2025-06").md5 == md5[1]
        with pytest.raises(BadInput, match=rf"2025-06\.jsonl: .* its md5 is {md5[1]}, not {md5[0]}"):
            remade(parts, "3", tmp_path / "made")
    finally:
        path.write_bytes(whole)
        tracker.write_text(tracked)


def test_a_parent_whose_weights_were_changed_is_refused_by_name(parts: Parts, tmp_path: Path) -> None:
    labels = parts.versions.weights("2") / "labels.json"
    whole = labels.read_bytes()
    try:
        labels.write_bytes(whole + b"\n")
        with pytest.raises(BadInput, match=r"labels\.json: its SHA-256 is .* version 3 was trained from"):
            remade(parts, "3", tmp_path / "made")
    finally:
        labels.write_bytes(whole)


def test_what_differs_is_named_and_what_comes_after_it_is_not_made(parts: Parts, tmp_path: Path) -> None:
    first, second = chain(parts.versions, "2", from_base=True)
    params = {**first.lineage.params, "base": {**first.lineage.params["base"], "seed": 2}}
    other = Link("1", first.lineage.model_copy(update={"params": params}))
    (rebuilt,) = reproduce(parts.versions, parts.snapshots, [other, second], tmp_path)
    (line,) = [line for line in rebuilt.differences if line.startswith("model.safetensors")]
    assert "tensors differ by up to" in line


def test_a_registered_file_that_was_changed_is_told_from_a_rebuild_that_differs(parts: Parts, tmp_path: Path) -> None:
    labels = parts.versions.weights("3") / "labels.json"
    whole = labels.read_bytes()
    try:
        labels.write_bytes(whole + b"\n")
        (rebuilt,) = remade(parts, "3", tmp_path)
    finally:
        labels.write_bytes(whole)
    (line,) = rebuilt.differences
    assert line.startswith("labels.json: made again as recorded")


def test_another_commit_library_or_machine_is_named(parts: Parts) -> None:
    lineage = read_lineage(parts.versions, "3")
    elsewhere = lineage.model_copy(
        update={
            "code": lineage.code.model_copy(update={"git_commit": "0" * 40}),
            "libraries": {**lineage.libraries, "torch": "1.0"},
            "machine": lineage.machine.model_copy(update={"capability": "AVX1024"}),
        }
    )
    commit, torch, capability = changed_since(elsewhere)
    assert commit.startswith("git commit 000000000000 (here ")
    assert torch.startswith("torch 1.0 (here 2")
    assert capability.startswith("capability AVX1024 (here ")


def test_a_folder_that_is_not_empty_is_no_clean_folder(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(Conflict, match="clean folder"):
        remade(parts, "1", tmp_path)


def test_parameters_that_this_evermoe_does_not_read_are_one_line(parts: Parts, tmp_path: Path) -> None:
    (link,) = chain(parts.versions, "1", from_base=False)
    strange = replace(link, lineage=link.lineage.model_copy(update={"params": {**link.lineage.params, "moon": {}}}))
    with pytest.raises(BadInput, match=r"does not read \(moon\); check out commit"):
        list(reproduce(parts.versions, parts.snapshots, [strange], tmp_path))


def test_an_unknown_version_is_one_line(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "99", "--home", str(settings().home)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evermoe: no version '99'")


def test_a_version_that_an_older_evermoe_registered_says_so(parts: Parts) -> None:
    bare = parts.versions.register(
        parts.versions.weights("1"), month="2020-01", parent=None, run_id=None, loader=LOADER, description=""
    )
    with pytest.raises(NotFound, match=r"version 4 has no lineage\.json"):
        chain(parts.versions, bare.version, from_base=False)
