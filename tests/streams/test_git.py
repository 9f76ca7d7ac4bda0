"""Histories made here with the git binary."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evermoe.errors import BadInput
from streams.git import open_git


class Repository:
    """A repository that commits what it is told, when and by whom it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, **environment: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        identity = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@x",
            "GIT_COMMITTER_NAME": "c",
            "GIT_COMMITTER_EMAIL": "c@x",
        }
        no_config = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=clean | identity | no_config | environment,
        ).stdout.strip()

    def commit(self, subject: str, *files: str, date: str = "2021-03-04T05:06:07+0200", email: str = "a@x") -> str:
        for name in files:
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(file.read_text() + "more\n" if file.exists() else "some\n")
            self.git("--literal-pathspecs", "add", "--", name)
        self.git(
            *("commit", "--quiet", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "-m", subject),
            GIT_AUTHOR_DATE=date,
            GIT_AUTHOR_EMAIL=email,
        )
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_a_commit_becomes_a_record_in_utc_with_the_first_directory_changed_as_label(repository: Repository) -> None:
    head = repository.commit("Fix the pump", "CHANGELOG", "pump/valve/seat.c", "tests/seat.c")
    stream = open_git(repository.path)
    (record,) = stream.records()
    assert (record.text, record.label, record.source) == ("Fix the pump", "pump", "git")
    assert record.at == datetime(2021, 3, 4, 3, 6, 7, tzinfo=UTC)
    assert stream.fingerprint == head


def test_files_at_the_root_have_a_label_of_their_own_and_a_commit_of_no_file_has_none(repository: Repository) -> None:
    repository.commit("root", "README", date="2021-01-01T00:00:00Z")
    repository.commit("nothing", date="2021-01-02T00:00:00Z")
    repository.commit("src", "src/a", date="2021-01-03T00:00:00Z")
    assert [(record.text, record.label) for record in open_git(repository.path).records()] == [
        ("root", "(root)"),
        ("nothing", None),
        ("src", "src"),
    ]


def test_subjects_and_paths_that_look_like_git_output_stay_what_they_are(repository: Repository) -> None:
    odd = [
        "dir with space/x",
        ":100644 100644 a b M/x",
        "new\nline/x",
        "0" * 40 + "/x",
        "ünï/x",
        "-dash/x",
        '"quote"/x',
    ]
    subjects = [
        ":100644 100644 0000000 d00491f A",
        "0" * 40,
        "%H %x00",
        "tab\tand \x01 byte",
        "Größe",
        "--reverse",
        "commit x",
    ]
    for day, (subject, path) in enumerate(zip(subjects, odd, strict=True), start=1):
        repository.commit(subject, path, date=f"2021-01-{day:02}T00:00:00Z")
    assert [(record.text, record.label) for record in open_git(repository.path).records()] == [
        (subject, path.removesuffix("/x")) for subject, path in zip(subjects, odd, strict=True)
    ]


def test_every_commit_but_merges_is_there_once(repository: Repository) -> None:
    repository.commit("base", "a/a", date="2021-01-01T00:00:00Z")
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("side", "b/b", date="2021-01-03T00:00:00Z")
    repository.git("checkout", "--quiet", "main")
    repository.commit("main", "c/c", date="2021-01-02T00:00:00Z")
    repository.git("merge", "--quiet", "--no-ff", "-m", "merge", "side")
    assert [record.text for record in open_git(repository.path).records()] == ["base", "main", "side"]


def test_one_author_is_one_unit_and_the_address_is_nowhere_in_it(repository: Repository) -> None:
    for number, email in enumerate(["ann@example.org", "Ann@Example.org", "bob@example.org"], start=1):
        repository.commit(f"c{number}", date=f"2021-01-0{number}T00:00:00Z", email=email)
    units = [record.unit for record in open_git(repository.path).records()]
    assert units[0] == units[1] != units[2]
    assert not any("ann" in str(unit) or "@" in str(unit) for unit in units)


def test_a_commit_without_a_subject_is_left_out_and_counted(repository: Repository) -> None:
    repository.commit("", "a/a")
    repository.commit("kept", "a/a")
    stream = open_git(repository.path)
    assert [record.text for record in stream.records()] == ["kept"]
    assert stream.left_out == {"commit without a subject": 1}


def test_a_commit_of_a_year_that_nobody_lived_is_left_out_and_counted(repository: Repository) -> None:
    repository.commit("clock not set", "src/a", date="1970-01-02T00:00:00Z")
    repository.commit("real", "src/b")
    stream = open_git(repository.path)
    assert [record.text for record in stream.records()] == ["real"]
    assert dict(stream.left_out) == {"commit without a plausible date": 1}


def test_a_subject_in_bytes_that_are_no_utf_8_is_still_a_record(repository: Repository) -> None:
    message = repository.path / "message"
    message.write_bytes(b"caf\xe9 \xff")
    repository.git("commit", "--quiet", "--allow-empty", "-F", str(message))
    (record,) = open_git(repository.path).records()
    assert record.text.startswith("caf")
    record.text.encode()


def test_a_git_dir_in_the_environment_does_not_outrank_the_path(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("ours", "a/a")
    other = Repository(tmp_path / "other")
    other.commit("theirs", "b/b")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert [record.text for record in open_git(repository.path).records()] == ["ours"]


def test_a_user_configuration_that_changes_the_log_changes_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("first", "b/b", "a/a")
    config = repository.path / "config"
    config.write_text(
        "[log]\nshowRoot=false\nshowSignature=true\ndate=relative\n[color]\nui=always\n[diff]\nnoprefix=true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert [record.label for record in open_git(repository.path).records()] == ["a"]


def test_a_configuration_that_shows_paths_as_a_folder_sees_them_changes_no_label(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("first", "beta/b")
    repository.git("config", "diff.relative", "true")
    assert [record.label for record in open_git(repository.path / "beta").records()] == ["beta"]


def test_the_edge_of_a_shallow_clone_which_seems_to_change_everything_is_left_out(
    repository: Repository, tmp_path: Path
) -> None:
    for number in range(3):
        repository.commit(f"change {number}", "alpha/a" if number == 0 else f"beta/{number}")
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth", "2", f"file://{repository.path}", str(shallow))
    stream = open_git(shallow)
    assert [(record.text, record.label) for record in stream.records()] == [("change 2", "beta")]
    assert list(stream.left_out.values()) == [1]


def test_a_submodule_is_a_directory(repository: Repository, tmp_path: Path) -> None:
    library = Repository(tmp_path / "library")
    library.commit("its own", "a")
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library.path), "lib")
    repository.git("rm", "--quiet", "--cached", ".gitmodules")
    repository.git("commit", "--quiet", "-m", "bring the library")
    repository.git("rm", "--quiet", "--cached", "lib")
    repository.git("commit", "--quiet", "-m", "drop the library")
    repository.git("config", "diff.ignoreSubmodules", "all")
    assert [record.label for record in open_git(repository.path).records()] == ["lib", "lib"]


def test_names_of_blanks_and_subjects_as_long_as_files_are_no_records(repository: Repository, tmp_path: Path) -> None:
    repository.commit("long", "lib/a")
    (tmp_path / "message").write_text("x" * 150_001)
    repository.git("commit", "--quiet", "--amend", "-F", str(tmp_path / "message"))
    repository.commit("blank", " /a")
    repository.commit("whole", "lib/b")
    stream = open_git(repository.path)
    assert [(record.text, record.label) for record in stream.records()] == [("blank", "(root)"), ("whole", "lib")]
    assert stream.left_out == {"commit with a subject of more than 150,000 characters": 1}


def test_no_repository_an_empty_one_a_file_and_a_missing_git_are_named_in_one_line(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path, says in [
        (tmp_path, "not a git repository"),
        (repository.path, "no commits yet"),
        (file, "not a directory"),
        (tmp_path / "absent", "not a directory"),
    ]:
        with pytest.raises(BadInput, match=says) as refusal:
            open_git(path)
        assert "\n" not in str(refusal.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="git is not installed"):
        open_git(repository.path)
