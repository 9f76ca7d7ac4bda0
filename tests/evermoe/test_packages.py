"""A pinned package is brought once, and nothing but that package is accepted."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from evermoe.errors import ServiceUnreachable
from evermoe.packages import Package, bring, bring_file

WHEEL = "small_package-1.0-py3-none-any.whl"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package in a folder that is all pip can see."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with zipfile.ZipFile(index / WHEEL, "w") as archive:
        archive.writestr("small_package/data.bin", b"data")
        archive.writestr(
            "small_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-package\nVersion: 1.0\n"
        )
        archive.writestr("small_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    content = (index / WHEEL).read_bytes()
    return Package("small-package==1.0", WHEEL, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_file_of_a_package_is_brought_once_and_again_when_it_is_broken(
    package: Package, cache: Path, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(b"data").hexdigest()
    seen: list[tuple[int, int | None]] = []
    file = bring_file(package, "small_package/data.bin", sha256, cache, lambda done, total: seen.append((done, total)))
    assert file.read_bytes() == b"data"
    assert seen[-1] == (package.size, package.size)
    assert list(cache.iterdir()) == [file]
    file.write_bytes(b"dat")
    assert bring_file(package, "small_package/data.bin", sha256, cache).read_bytes() == b"data"
    (tmp_path / "index" / WHEEL).unlink()
    assert bring_file(package, "small_package/data.bin", sha256, cache) == file


def test_another_package_under_the_same_name_is_refused_and_not_kept(package: Package, cache: Path) -> None:
    other = Package(package.requirement, package.wheel, "0" * 64, package.size)
    with pytest.raises(ServiceUnreachable, match="SHA-256"):
        bring(other, cache)
    assert list(cache.iterdir()) == []
