"""What a person may do to a rollout by hand: each a `Decision` for `rollout.transition`, or the reason why it makes no sense.

Pure. Knows neither who asks nor how it is carried out (`controls.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from evermoe.errors import BadInput
from registry.deciding import without
from registry.rollout import OPEN, Challenger, Decision, Rollout, listed, require


def pause(rollout: Rollout, reason: str = "paused by hand") -> Decision:
    """Stop all automatic moves; the units keep their arms. Raises `Conflict` unless running."""
    require(rollout, "pause", ("running",))
    return Decision("pause", rollout.share, reason)


def resume(rollout: Rollout, reason: str = "resumed by hand") -> Decision:
    """Let it move again. Raises `Conflict` unless paused."""
    require(rollout, "resume", ("paused",))
    return Decision("resume", rollout.share, reason)


def set_share(
    rollout: Rollout, share: float, reason: str = "share set by hand", version: str | None = None
) -> Decision:
    """Give a challenger this share; automatic steps go on from there. Lowering it sends units back to the champion.

    `version` says whose, where several are in. Raises `Conflict` when closed, `BadInput` when the share is not above 0 and
    below 1, or leaves the champion nothing.
    """
    require(rollout, "change the share of", OPEN)
    if not 0.0 < share < 1.0:
        raise BadInput(f"a share of {share:g} compares nothing; give one above 0 and below 1, or promote, or abort")
    chosen = _chosen(rollout, version, "whose share it is")
    if not rollout.several:
        return Decision("share", share, reason)
    shares = {one.arm: share if one is chosen else one.share for one in rollout.inside}
    if (total := math.fsum(shares.values())) >= 1.0:
        raise BadInput(
            f"with {share:g} for version {chosen.version} the challengers have {total:g} of the units; leave the champion some"
        )
    return Decision("share", total, reason, shares=shares)


def promote(rollout: Rollout, reason: str = "promoted by hand", version: str | None = None) -> Decision:
    """Let a challenger take over without waiting for proof; `version` says which, where several are in.

    Raises `Conflict` when closed, `BadInput` for a version that is not in.
    """
    require(rollout, "promote", OPEN)
    chosen = _chosen(rollout, version, "which to promote")
    others = {one.arm: f"version {chosen.version} was promoted" for one in rollout.inside if one is not chosen}
    return Decision("promote", chosen.share, reason, out=others)


def abort(rollout: Rollout, reason: str = "aborted by hand", version: str | None = None) -> Decision:
    """Send all units back to the champion, and end the trial. With `version`, that one is out and the others go on.

    Raises `Conflict` when closed, `BadInput` for a version that is not in.
    """
    require(rollout, "abort", OPEN)
    if version is None or not rollout.several:
        if version is not None:
            _chosen(rollout, version, "which to abort")
        return Decision("abort", 0.0, reason)
    decision = without(rollout, {_chosen(rollout, version, "which to abort").arm: reason})
    return replace(decision, reason=reason)


def revert(rollout: Rollout, reason: str = "reverted by hand") -> Decision:
    """Take a promotion back: the champion before it answers everyone again. Raises `Conflict` unless promoted."""
    require(rollout, "revert", ("promoted",))
    return Decision("revert", 0.0, reason)


def _chosen(rollout: Rollout, version: str | None, what: str) -> Challenger:
    """The challenger that a person means."""
    inside = rollout.inside
    if version is None and len(inside) == 1:
        return inside[0]
    names = listed((one.version for one in inside), "or")
    if version is None:
        raise BadInput(f"{len(inside)} versions are on trial; say {what}: {names}")
    found = next((one for one in inside if one.version == version), None)
    if found is None:
        raise BadInput(f"version {version} is not on trial in rollout {rollout.id}; name {names}")
    return found
