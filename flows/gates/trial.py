"""How a challenger that passed its gates, or was let go by a person, meets users: its rollout is opened, or it is said why not."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from flows.gates.checks import check_tag
from flows.gates.overrides import OVERRIDDEN, OVERRIDE, Override, overridden
from flows.lineage.candidate import FAILED_GATES, WHY_UNTRIED, attempt
from flows.runtime.parts import Parts, policy_of
from flows.runtime.steps import step
from monitoring.checks import CHECKS
from registry.actions.controls import Controls
from registry.actions.starting import salt_of
from registry.analysis.outlook import weighed
from registry.book.lease import Lease
from registry.deciding import make_way
from registry.rollout import new_rollout
from registry.tracker.versions import Version

WAITS_FOR = "evermoe.waits_for"  # on a version: the rollout that has to end before its own may begin


@step(name="override the gates")
def override_gates(parts: Parts, version: Version, override: Override, now: datetime) -> Version:
    """The version with the override on it, free to meet users where it covers every gate that failed.

    An override that names nothing that failed changes nothing.
    """
    with parts.tracking.step(version.month[:7], "gates", attempt(version.month, version.parent)) as run:
        said = run.client.get_run(run.run_id).data.tags
        checks = {name for name in CHECKS if said.get(check_tag(name), "").startswith(OVERRIDDEN)}
        failed = set(json.loads(version.tags.get(FAILED_GATES, "[]")))
        covered = [name for name in override.names if name in failed | checks]
        if not covered:
            return version
        run.tags({OVERRIDE: str(override)})
    known = overridden(version)
    told = {**asdict(override), "names": covered}
    if told not in [{name: one[name] for name in told} for one in known]:
        known.append({**told, "at": now.isoformat()})
    tags = {OVERRIDE: json.dumps(known, ensure_ascii=False)}
    if failed and failed <= {name for one in known for name in one["names"]}:
        tags["evermoe.gates"] = OVERRIDDEN
    parts.versions.tag(version.version, tags)
    return parts.versions.get(version.version)


@step(name="put the challenger on trial", retries=2, retry_delay_seconds=10)
def put_on_trial(parts: Parts, challenger: Version, now: datetime, held: Lease | None = None) -> None:
    """Open the rollout at the foot of the ramp, unless an older one is still to be decided (`registry.deciding.make_way`): then
    it waits for that one, and is begun by the flow `rollout`, under the lease that it holds, if its parent is champion still.

    A challenger whose parent was replaced while it was trained meets nobody: it would be compared with a version that has
    gone. The new champion has not learned its month, so the next update does.
    """
    champion, period = parts.versions.champion(), challenger.month
    assert champion is not None
    controls = Controls(parts.ledger, parts.versions, parts.tracking, held)
    by = "flow rollout" if held else "flow monthly"
    against = [one for one in parts.ledger.list() if one.champion == challenger.parent]
    if any(tried.version == challenger.version for one in against for tried in one.challengers):
        controls.settle()  # whoever opened it may have died before the alias was set
        return
    if others := [one for one in against if one.month == period]:
        taken = f"rollout {others[0].id} of {period} tried other versions; the next update learns {period} anew"
        parts.versions.tag(challenger.version, {WHY_UNTRIED: taken})
        return
    if champion.version != challenger.parent:
        gone = (
            f"version {champion.version} replaced {challenger.parent} meanwhile; the next update learns {period} anew"
        )
        parts.versions.tag(challenger.version, {WHY_UNTRIED: gone})
        return
    policy = policy_of(parts.params)
    undecided = parts.ledger.running()
    if undecided is not None:
        proof = weighed(undecided, parts.events.rewards(undecided.id), policy, now).standing
        decision = make_way(undecided, proof, period)
        controls.apply(undecided, decision, by=by, now=now, proof=proof)
        if decision.action == "hold":
            parts.versions.tag(challenger.version, {WHY_UNTRIED: decision.reason, WAITS_FOR: undecided.id})
            return
    name = f"{period}-v{challenger.version}"
    salt = salt_of(name, challenger)
    opened = new_rollout(name, period, champion.version, challenger.version, salt, policy, now)
    said = overridden(challenger)  # which belongs to what the trial was opened on
    controls.open(opened, by=by, evidence={"overrides": said} if said else None)


def waiting(parts: Parts) -> list[Version]:
    """The challengers that waited for a rollout, once that has ended and no other is open."""
    rollouts = parts.ledger.list()
    if not rollouts or rollouts[-1].open:
        return []
    ended = {rollout.id for rollout in rollouts}
    return [one for one in parts.versions.all() if one.tags.get(WAITS_FOR) in ended]


def end_of_wait(parts: Parts, now: datetime, held: Lease) -> list[str]:
    """The challenger that waited for a rollout is put on trial, once that has ended, where its champion stayed.

    Of several the one of the latest month. Returns all that waited; of one that is not put on trial, a tag says why.
    """
    waited = waiting(parts)
    for one in sorted(waited, key=lambda one: one.month, reverse=True):
        if (chosen := parts.ledger.running()) is None:
            put_on_trial(parts, one, now, held)
        else:
            later = f"version {chosen.challenger} was tried in its place; the next update learns {one.month} anew"
            parts.versions.tag(one.version, {WHY_UNTRIED: later})
        parts.versions.untag(one.version, WAITS_FOR)
    return [one.version for one in waited]
