"""What the gateway shows of rollouts and lets people do to them by hand.

Knows the ledger, the event log and the evidence. Does not know HTTP, nor how the automatic steps are taken (`flows/`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from evermoe.errors import BadInput, Conflict, NotFound, NotReady
from monitoring.events import Counts, EventLog
from monitoring.expert_rewards import ExpertRewards, compare
from monitoring.glance import Glance, glance
from registry.actions import starting, steering
from registry.actions.controls import Controls
from registry.analysis.looks import Look, Looks
from registry.analysis.outlook import Weighed, arms_of, counting, proved, weighed
from registry.analysis.watching import watch
from registry.book.audit import AuditRow
from registry.deciding import Watch
from registry.rollout import Decision, Policy, Rollout
from registry.tracker.runs import SeenDrift
from registry.tracker.versions import Version
from serving.router import Deployment

log = logging.getLogger("evermoe.serving")
Control = Literal["pause", "resume", "share", "promote", "abort", "revert"]
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class Proof:
    """What the rewards of a rollout prove, and how that came to be, look by look."""

    weighed: Weighed
    looks: Mapping[str, tuple[Look, ...]]
    """Of each challenger, by arm."""


@dataclass(frozen=True)
class Traffic:
    """The arms of a rollout, and the experts behind good and bad answers: the champion's, then each challenger's."""

    glance: Glance
    experts: tuple[ExpertRewards, ...]


@dataclass(frozen=True)
class Registered:
    """What MLflow knows: the versions, the newest first, and the last drift verdict with its page's address there."""

    versions: tuple[Version, ...]
    drift: SeenDrift | None
    drift_link: str


class Rollouts:
    """Reads and changes rollouts. Every method may block on the database: call it in a thread."""

    def __init__(self, controls: Controls, events: EventLog, policy: Policy) -> None:
        self._controls, self._ledger, self._events, self.policy = controls, controls.ledger, events, policy
        self._heeded: tuple[str, str] | None = None  # the last end or way back of a rollout that the alias said too
        self._looks: tuple[str, Looks] | None = None

    def deployment(self) -> Deployment:
        """Who serves now: an open rollout's plan, else the champion alone. Raises `NotReady` without a champion.

        A promotion, or its way back, is in the ledger first and moves the alias after, without MLflow later still: until then the
        ledger says who serves. After that the alias does, which a person may have moved.
        """
        plan = self._ledger.plan()
        if plan is not None:
            self._heeded = (plan.rollout, "open")
            return Deployment(plan.champion, plan)
        last = max(self._ledger.list(), key=lambda one: one.closed_at or one.opened_at, default=None)
        ended = None if last is None else (last.id, last.status)
        try:
            champion = self._controls.versions.champion()
            if last is not None and not self._controls.is_settled(last, champion):
                return Deployment(last.serves)
        except Exception:
            # Whatever MLflow and its client raise when they are down. What was decided since they were asked counts without them.
            if last is None or self._heeded in (None, ended):
                raise
            return Deployment(last.serves)
        if champion is None:
            raise NotReady("no champion is registered; run `evermoe demo`, or `dvc repro` to make a base")
        self._heeded = ended
        return Deployment(champion.version)

    def all(self) -> tuple[Rollout, ...]:
        """All rollouts, the newest first."""
        return self._ledger.list()[::-1]

    def running(self) -> Rollout | None:
        """The open rollout, if there is one."""
        return self._ledger.running()

    def proof(self, rollout: Rollout, now: datetime) -> Proof:
        """What the rewards that were in time prove. Called by one thread at a time."""
        counted = counting(self._events.rewards(rollout.id), self.policy, now)
        proof = proved(rollout, counted, self.policy, now)
        if self._looks is None or self._looks[0] != rollout.id:
            self._looks = (rollout.id, Looks(lambda: arms_of(rollout, self.policy)))
        return Proof(proof, self._looks[1].take(counted.rewards, proof.standing.verdicts))

    def watch(self, rollout: Rollout, now: datetime) -> Watch:
        """Its guardrails and signals."""
        return watch(self._events, rollout, self.policy, now)

    def traffic(self, rollout: Rollout) -> Traffic:
        """How its arms fare, by the event log."""
        seen = glance(self._events.engine, rollout.id)
        versions = (rollout.champion, *(one.version for one in rollout.challengers))
        return Traffic(seen, tuple(compare(version, seen.rated) for version in versions))

    def registered(self) -> Registered:
        """Versions and drift, by MLflow."""
        drift = self._controls.tracking.latest_drift()
        link = self._controls.tracking.link(drift.run_id) if drift else ""
        return Registered(self._controls.versions.all()[::-1], drift, link)

    def counts(self) -> Counts:
        """How many rows the event log has."""
        return self._events.counts()

    def decisions(self, most: int = 20) -> tuple[AuditRow, ...]:
        """The latest decisions of all rollouts, the newest first."""
        return self._ledger.history()[: -most - 1 : -1]

    def weighed(self, rollout: Rollout, now: datetime) -> Weighed:
        """What the rewards of a rollout that had arrived by `now` prove."""
        return weighed(rollout, self._events.rewards(rollout.id), self.policy, now)

    def start(self, versions: Sequence[str], *, by: str, reason: str, now: datetime) -> Rollout:
        """Put versions on trial. Raises as `starting.start` does."""
        try:
            return starting.start(self._controls, versions, self.policy, by=by, reason=reason, now=now)
        except Exception as error:
            opened = self._ledger.running()
            if opened is None or isinstance(error, Conflict):
                raise
            if [one.version for one in opened.challengers] != list(versions):
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
        version: str | None = None,
    ) -> Rollout:
        """Carry out what a person decided, who saw the rollout at `revision` (None: as it is now). Of several challengers,
        `version` is the one that is meant.

        Raises `NotFound`, `BadInput`, and `Conflict` when its state forbids it or it has changed since that revision.
        """
        rollout = self._seen(id, revision)
        decision = self._decision(rollout, action, reason, share, version)
        proof = self.weighed(rollout, rollout.closed_at or now).standing
        try:
            return self._controls.apply(rollout, decision, by=by, now=now, proof=proof)
        except Exception as error:
            after = self._ledger.get(id)
            if after.revision == rollout.revision or isinstance(error, Conflict):
                raise
            # The ledger is the truth and has it; what failed is telling MLflow.
            self._followed = id
            log.warning("rollout %s: %s is carried out, but MLflow does not say so yet: %s", id, action, error)
            return after

    def foresee(self, id: str, action: str, reason: str, revision: int | None, version: str | None) -> Rollout:
        """The rollout that `control` would act on; raises as it would. Changes nothing."""
        rollout = self._seen(id, revision)
        self._decision(rollout, action, reason, None, version)
        return rollout

    def _seen(self, id: str, revision: int | None) -> Rollout:
        rollout = self._ledger.get(id)
        if revision is not None and rollout.revision != revision:
            raise Conflict(
                f"rollout {id} changed while you looked: it is {rollout.status}, with a share of {rollout.share:g}; look again"
            )
        return rollout

    def _decision(
        self, rollout: Rollout, action: str, reason: str, share: float | None, version: str | None
    ) -> Decision:
        decision = _decision(rollout, action, reason, share, version)
        if action == "revert":
            try:
                self._controls.check_in_place(rollout)
            except (Conflict, NotFound):
                raise
            except Exception as error:  # whatever MLflow and its client raise when they are down; the ledger decides
                log.warning("rollout %s: MLflow does not say who is champion: %s", rollout.id, error)
        return decision


def _decision(rollout: Rollout, action: str, reason: str, share: float | None, version: str | None) -> Decision:
    if action == "share":
        if share is None:
            raise BadInput("'share' is missing; give the challenger's share of the units, above 0 and below 1")
        return steering.set_share(rollout, share, reason, version)
    if action not in CONTROLS:
        raise BadInput(f"{action!r} is nothing one can do to a rollout; use one of {', '.join(CONTROLS)}")
    if action == "revert":
        return steering.revert(rollout, reason)
    if not rollout.open:
        raise Conflict(f"cannot {action} rollout {rollout.id}: it is {rollout.status}")
    if action in ("pause", "resume"):
        return steering.pause(rollout, reason) if action == "pause" else steering.resume(rollout, reason)
    return (
        steering.promote(rollout, reason, version) if action == "promote" else steering.abort(rollout, reason, version)
    )
