"""Putting registered versions on trial by hand: against whom, under which name and salt, and when that makes no sense.

The one way it is done, on the command line and in the console. Knows versions and the ledger; not who may ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b

from evermoe.errors import BadInput, Conflict, NotReady
from registry.actions.controls import Controls
from registry.rollout import Policy, Rollout, new_rollout
from registry.tracker.versions import Version


def start(
    controls: Controls, versions: str | Sequence[str], policy: Policy, *, by: str, reason: str, now: datetime
) -> Rollout:
    """Open a rollout against the champion: of one version at the foot of the ramp, of several each at the floor.

    Again while it is open, it changes nothing. Raises `NotReady` without a champion, `NotFound` for a version that is none,
    `BadInput` for the champion itself, and `Conflict` where another rollout is open, or a version was tried before: a trial is
    not repeated until it comes out as one likes.
    """
    champion = controls.versions.champion()
    if champion is None:
        raise NotReady("there is no champion to compare with; run `evermoe demo`, or make a base with `dvc repro`")
    named = (versions,) if isinstance(versions, str) else tuple(versions)
    challengers = [controls.versions.get(version) for version in named]
    numbers = [challenger.version for challenger in challengers]
    if champion.version in numbers:
        raise BadInput(f"version {champion.version} is the champion; start a rollout of another version")
    for known in controls.ledger.list():
        if known.champion != champion.version:
            continue
        again = [one.version for one in known.challengers if one.version in numbers]
        if again and not known.open:
            raise Conflict(
                f"version {again[0]} was tried against version {champion.version} before: rollout {known.id} is {known.status}"
            )
        if known.open and sorted(one.version for one in known.challengers) == sorted(numbers):
            return controls.open(known, by=by)  # what a failure of MLflow left undone is made good
    newest = max(challengers, key=lambda challenger: challenger.month)
    name = f"{newest.month}-v{'-v'.join(numbers)}-against-v{champion.version}"
    salt = salt_of(name, newest)
    rollout = new_rollout(name, newest.month, champion.version, numbers, salt, policy, now)
    return controls.open(replace(rollout, reason=reason), by=by)


def salt_of(name: str, challenger: Version) -> str:
    """The salt that draws a rollout's units. It follows from what was learned, so a replay of the same month assigns the same
    users, and no two rollouts share one."""
    return blake2b(f"{name} {challenger.tags.get('evermoe.dvc', '')}".encode(), digest_size=12).hexdigest()
