"""A person's word against a gate or a check: which, by whom and why. It is written where the version is looked at.

An override lets a month that failed the checks it names be learned, or a version that failed the gates it names meet users. It
covers what it names and nothing else, and never what no word can mend: a version that does not answer in the real server, a
month with too few rows to learn from. Knows nothing of Prefect: a command reads what it was given before it opens anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evermoe.errors import BadInput
from model.gates import GATES
from monitoring.checks import CHECKS, ENOUGH
from registry.tracker.versions import Version

OVERRIDE = "evermoe.override"  # on a version and on its gates' run
OVERRIDDEN = "overridden"  # beside "passed" and "failed", what `evermoe.gates` says of a version
FOR_GOOD = (ENOUGH, "real server")


@dataclass(frozen=True)
class Override:
    """The names of gates and checks, who lets them go, and why."""

    names: tuple[str, ...]
    by: str
    reason: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)} by {self.by}: {self.reason}"


def read_override(names: Sequence[str], by: str | None, reason: str | None) -> Override | None:
    """What a person asked for; None where nothing. Raises `BadInput` for an unknown name, or without a signature or a reason."""
    names = tuple(dict.fromkeys(" ".join(name.split()) for name in names))
    if not names:
        if by or reason:
            raise BadInput("--by and --reason sign an override; name what is overridden with --override")
        return None
    for name in names:
        if name in FOR_GOOD:
            raise BadInput(f"{name!r} cannot be overridden: a version must answer, and a month must have rows")
        if name not in GATES and name not in CHECKS:
            raise BadInput(f"no gate or check is called {name!r}; there are: {', '.join((*CHECKS, *GATES))}")
    signature, why = " ".join((by or "").split()), " ".join((reason or "").split())
    if not signature:
        raise BadInput("an override is signed; say who you are with --by NAME")
    if not why:
        raise BadInput("an override has a reason; say it with --reason TEXT")
    return Override(names, signature, why)


def overridden(version: Version) -> list[dict[str, Any]]:
    """What was overridden of a version, as its tag says: names, by, reason and at of each override, the first one first."""
    found: list[dict[str, Any]] = json.loads(version.tags.get(OVERRIDE, "[]"))
    return found
