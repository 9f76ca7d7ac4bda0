"""What the gateway shows of rollouts and lets people do to them by hand.

Knows the ledger, the event log and the evidence. Does not know HTTP, nor how the automatic steps are taken (`flows/`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from evermoe.errors import BadInput, Conflict, NotReady
from monitoring.events import EventLog, Summary
from registry import rollout as machine
from registry import starting
from registry.controls import Controls
from registry.evidence import Verdict, weigh
from registry.ledger import AuditRow, Plan
from registry.rollout import Decision, Policy, Rollout
from serving.router import Deployment

log = logging.getLogger("evermoe.serving")
Control = Literal["pause", "resume", "share", "promote", "abort"]
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class OpenRollout:
    """The open rollout, what its rewards prove by now, and its arms at a glance."""

    rollout: Rollout
    verdict: Verdict
    summary: Summary


class Rollouts:
    """Reads and changes rollouts. Every method may block on the database: call it in a thread."""

    def __init__(self, controls: Controls, events: EventLog, policy: Policy) -> None:
        self._controls, self._ledger, self._events, self.policy = controls, controls.ledger, events, policy
        self._on_trial: Plan | None = None

    def deployment(self) -> Deployment:
        """Who serves now: an open rollout's plan, else the champion alone. Raises `NotReady` without a champion.

        A decision on the rollout that was followed here takes effect without MLflow too: the ledger has it.
        """
        plan = self._ledger.plan()
        if plan is not None:
            self._on_trial = plan
            return Deployment(plan.champion, plan)
        last = self._on_trial
        promoted = last is not None and self._ledger.get(last.rollout).status == "promoted"
        try:
            champion = self._controls.versions.champion()
        except Exception:
            # Whatever MLflow and its client raise when they are down: the ledger is the truth, the alias follows from it.
            if last is None:
                raise
            return Deployment(last.challenger if promoted else last.champion)
        if champion is None:
            raise NotReady("no champion is registered; run `evermoe demo`, or `dvc repro` to make a base")
        if last and promoted and champion.version == last.champion:
            # A promotion closes the ledger first and moves the alias after: do not go back for that moment.
            return Deployment(last.challenger)
        self._on_trial = None
        return Deployment(champion.version)

    def all(self) -> tuple[Rollout, ...]:
        """All rollouts, the newest first."""
        return self._ledger.list()[::-1]

    def now_open(self, now: datetime) -> OpenRollout | None:
        """The open rollout with its evidence, if there is one."""
        rollout = self._ledger.running()
        if rollout is None:
            return None
        return OpenRollout(rollout, self.verdict(rollout, now), self._events.summary(rollout.opened_at))

    def decisions(self, most: int = 20) -> tuple[AuditRow, ...]:
        """The latest decisions of all rollouts, the newest first."""
        return self._ledger.history()[: -most - 1 : -1]

    def verdict(self, rollout: Rollout, now: datetime) -> Verdict:
        """What the rewards of a rollout that had arrived by `now` prove."""
        return weigh(self._events.rewards(rollout.id), self.policy.alpha, now, self.policy.window)

    def start(self, version: str, *, by: str, reason: str, now: datetime) -> Rollout:
        """Put a version on trial. Raises as `starting.start` does."""
        try:
            return starting.start(self._controls, version, self.policy, by=by, reason=reason, now=now)
        except Exception as error:
            opened = self._ledger.running()
            if opened is None or opened.challenger != version or isinstance(error, Conflict):
                raise
            log.warning("rollout %s is open, but MLflow does not say so yet: %s", opened.id, error)
            return opened

    def control(
        self,
        id: str,
        action: str,
        *,
        by: str,
        reason: str,
        share: float | None,
        now: datetime,
        revision: int | None = None,
    ) -> Rollout:
        """Carry out what a person decided, who saw the rollout at `revision` (None: as it is now).

        Raises `NotFound`, `BadInput`, and `Conflict` when its state forbids it or it has changed since that revision.
        """
        rollout = self._seen(id, revision)
        decision, verdict = _decision(rollout, action, reason, share), self.verdict(rollout, now)
        try:
            return self._controls.apply(rollout, decision, by=by, now=now, verdict=verdict)
        except Exception as error:
            after = self._ledger.get(id)
            if after.revision == rollout.revision or isinstance(error, Conflict):
                raise
            # The ledger is the truth and has it; what failed is telling MLflow.
            log.warning("rollout %s: %s is carried out, but MLflow does not say so yet: %s", id, action, error)
            return after

    def foresee(self, id: str, action: str, reason: str, revision: int | None) -> Rollout:
        """The rollout that `control` would act on; raises as it would. Changes nothing."""
        rollout = self._seen(id, revision)
        _decision(rollout, action, reason, None)
        return rollout

    def _seen(self, id: str, revision: int | None) -> Rollout:
        rollout = self._ledger.get(id)
        if revision is not None and rollout.revision != revision:
            raise Conflict(
                f"rollout {id} changed while you looked: it is {rollout.status}, with a share of {rollout.share:g}; look again"
            )
        return rollout


def _decision(rollout: Rollout, action: str, reason: str, share: float | None) -> Decision:
    if action == "share":
        if share is None:
            raise BadInput("'share' is missing; give the challenger's share of the units, above 0 and below 1")
        return machine.set_share(rollout, share, reason)
    by_name = {"pause": machine.pause, "resume": machine.resume, "promote": machine.promote, "abort": machine.abort}
    if action not in by_name:
        raise BadInput(f"{action!r} is nothing one can do to a rollout; use one of {', '.join(CONTROLS)}")
    if not rollout.open:
        raise Conflict(f"cannot {action} rollout {rollout.id}: it is {rollout.status}")
    return by_name[action](rollout, reason)
