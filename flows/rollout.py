"""Every ten minutes: look at what users' feedback proves, and move the challengers' shares, promote one, send one home, or wait.

Guardrails stop it whatever the feedback says, and for some days after a promotion bring the champion before it back.
"""

from __future__ import annotations

import logging
import os
import socket
from datetime import UTC, datetime
from uuid import uuid4

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from evermoe.errors import Conflict, NotFound
from flows.gates.trial import end_of_wait
from flows.review.account import present
from flows.runtime.parts import Parts, open_parts, policy_of
from flows.runtime.steps import at_moment, step
from registry.actions.controls import Controls
from registry.analysis.outlook import Weighed, outlook, weighed
from registry.analysis.watching import watch, watch_promoted
from registry.book.lease import Fenced
from registry.deciding import guard, is_watched
from registry.rollout import Decision, Policy, Rollout, in_force, listed
from registry.rules.best_arm import Standing

log = logging.getLogger("evermoe.flows")


@flow(name="rollout", flow_run_name=at_moment("look at"), retries=2, retry_delay_seconds=10)
def rollout(now: datetime | None = None) -> Decision | None:
    """One look at the open rollout; without one at the version that was promoted lately, and then the challenger that waited for
    the last rollout to end, if there is one, is put on trial.

    None when nothing was on trial and the last promotion stays, or when another controller is at it.
    """
    now = now or datetime.now(UTC)
    holder = f"flow rollout {uuid4().hex[:8]} (process {os.getpid()} on {socket.gethostname()})"
    with open_parts() as parts, parts.ledger.lease(holder, lambda: datetime.now(UTC)) as held:
        if held is None:
            return None
        controls = Controls(parts.ledger, parts.versions, parts.tracking, held)
        controls.settle()
        policy = policy_of(parts.params)
        on_trial = parts.ledger.running()
        if on_trial is None:
            decision = look_back(parts, controls, policy, now)
            for waited in end_of_wait(parts, now, held):
                present(parts, waited)
            return decision
        proof = weigh(parts, on_trial, policy, now)
        ahead = outlook(on_trial, proof, policy, now, watch(parts.events, on_trial, policy, now))
        return ahead.next if carry_out(controls, on_trial, ahead.next, ahead.standing, now) else None


def look_back(parts: Parts, controls: Controls, policy: Policy, now: datetime) -> Decision | None:
    """The version promoted last gives way again where a guardrail is crossed; None where it stays, or it is long ago.

    While another rollout is open this rests: that one compares with the new champion, and holds its guardrails against it.
    """
    last = in_force(reversed(parts.ledger.list()))
    if last is None or last.closed_at is None or not is_watched(last, policy, now):
        return None
    decision = guard(last, watch_promoted(parts.events, last, policy, now), policy, now)
    if decision.action == "hold":
        return None
    try:
        controls.check_in_place(last)
    except (Conflict, NotFound) as error:  # a person was faster, who knows more
        log.warning("%s, but %s", decision.reason, error)
        return None
    proof = weigh(parts, last, policy, last.closed_at)
    return decision if carry_out(controls, last, decision, proof.standing, now) else None


@step(name="weigh the evidence", retries=2, retry_delay_seconds=5)
def weigh(parts: Parts, on_trial: Rollout, policy: Policy, now: datetime) -> Weighed:
    """What the rewards that have arrived prove."""
    return weighed(on_trial, parts.events.rewards(on_trial.id), policy, now)


@step(name="carry out the decision", retries=2, retry_delay_seconds=5)
def carry_out(controls: Controls, on_trial: Rollout, decision: Decision, proof: Standing, now: datetime) -> bool:
    """Ledger, alias, MLflow; a decision that changes something is an artifact too. False where somebody took over meanwhile."""
    try:
        after = controls.apply(on_trial, decision, by="flow rollout", now=now, proof=proof)
    except Fenced as error:
        log.warning("%s", error)
        return False
    if decision.action != "hold":
        create_markdown_artifact(
            f"# {decision.action}: version {listed(one.version for one in on_trial.challengers)} against {on_trial.champion}\n\n"
            f"{decision.reason}\n\n{_shares(after)}",
            key=f"rollout-{on_trial.id.lower()}",
            description=f"Decision at {now:%Y-%m-%d %H:%M}",
        )
    return True


def _shares(rollout: Rollout) -> str:
    """Who meets whom after a decision, in a sentence."""
    if not rollout.several:
        return f"The challenger's share is now {rollout.share:.0%}."
    return f"Shares are now {listed(f'{one.share:.0%} for version {one.version}' for one in rollout.challengers)}."
