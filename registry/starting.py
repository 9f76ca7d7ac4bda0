"""Putting a registered version on trial by hand: against whom, under which name and salt, and when that makes no sense.

The one way it is done, on the command line and in the console. Knows versions and the ledger; not who may ask.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from hashlib import blake2b

from evermoe.errors import BadInput, Conflict, NotReady
from registry.controls import Controls
from registry.rollout import Policy, Rollout, new_rollout
from registry.versions import Version


def start(controls: Controls, version: str, policy: Policy, *, by: str, reason: str, now: datetime) -> Rollout:
    """Open a rollout of `version` against the champion, at the foot of the ramp. Again while it is open, it changes nothing.

    Raises `NotReady` without a champion, `NotFound` for a version that is none, `BadInput` for the champion itself, and
    `Conflict` where another rollout is open, or this one was tried before and closed: a trial is not repeated until it
    comes out as one likes.
    """
    champion = controls.versions.champion()
    if champion is None:
        raise NotReady("there is no champion to compare with; run `evermoe demo`, or make a base with `dvc repro`")
    challenger = controls.versions.get(version)
    if challenger.version == champion.version:
        raise BadInput(f"version {version} is the champion; start a rollout of another version")
    known = controls.ledger.find(challenger.month, champion.version)
    if known is not None and known.challenger == challenger.version:
        if not known.open:
            raise Conflict(
                f"version {version} was tried against version {champion.version} before: rollout {known.id} is {known.status}"
            )
        return controls.open(known, by=by)  # what a failure of MLflow left undone is made good
    name = f"{challenger.month}-v{challenger.version}-against-v{champion.version}"
    salt = salt_of(name, challenger)
    rollout = new_rollout(name, challenger.month, champion.version, challenger.version, salt, policy, now)
    return controls.open(replace(rollout, reason=reason), by=by)


def salt_of(name: str, challenger: Version) -> str:
    """The salt that draws a rollout's units. It follows from what was learned, so a replay of the same month assigns the same
    users, and no two rollouts share one."""
    return blake2b(f"{name} {challenger.tags.get('evermoe.dvc', '')}".encode(), digest_size=12).hexdigest()
