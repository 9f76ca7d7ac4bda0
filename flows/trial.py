"""How a challenger that passed its gates meets users: its rollout is opened, or it is said why not."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b

from flows.parts import Parts
from flows.steps import step
from registry.controls import Controls
from registry.evidence import weigh
from registry.rollout import Policy, make_way, new_rollout
from registry.versions import Version


@step(name="put the challenger on trial", retries=2, retry_delay_seconds=10)
def put_on_trial(parts: Parts, challenger: Version, period: str, now: datetime) -> None:
    """Open the rollout at the foot of the ramp, unless an older one is still to be decided (`registry.rollout.make_way`).

    A challenger whose parent was replaced while it was trained meets nobody: it would be compared with a version that has
    gone. The new champion has not learned its month, so the next update does.
    """
    champion = parts.versions.champion()
    assert champion is not None
    controls = Controls(parts.ledger, parts.versions, parts.tracking)
    if parts.ledger.find(period, str(challenger.parent)) is not None:
        controls.settle()  # whoever opened it may have died before the alias was set
        return
    if champion.version != challenger.parent:
        gone = (
            f"version {champion.version} replaced {challenger.parent} meanwhile; the next update learns {period} anew"
        )
        parts.versions.tag(challenger.version, {"evermoe.rollout": gone})
        return
    policy = Policy(**parts.params.rollout.model_dump())
    undecided = parts.ledger.running()
    if undecided is not None:
        verdict = weigh(parts.events.rewards(undecided.id), policy.alpha, now)
        decision = make_way(undecided, verdict, period)
        controls.apply(undecided, decision, by="flow monthly", now=now, verdict=verdict)
        if decision.action == "hold":
            parts.versions.tag(challenger.version, {"evermoe.rollout": decision.reason})
            return
    name = f"{period}-v{challenger.version}"
    salt = salt_of(name, challenger)
    controls.open(new_rollout(name, period, champion.version, challenger.version, salt, policy, now), by="flow monthly")


def salt_of(name: str, challenger: Version) -> str:
    """The salt that draws a rollout's units. It follows from what was learned, so a replay of the same month assigns the same
    users, and no two rollouts share one."""
    return blake2b(f"{name} {challenger.tags.get('evermoe.dvc', '')}".encode(), digest_size=12).hexdigest()
