"""Settings that the machine, not the user, decides."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

import pytest

from evermoe.settings import Settings


def test_a_user_whom_the_machine_does_not_know_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EVERMOE_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert Settings().cache == Path(gettempdir()) / ".cache" / "evermoe"
    monkeypatch.setenv("EVERMOE_CACHE", "/elsewhere")
    assert Settings().cache == Path("/elsewhere")
