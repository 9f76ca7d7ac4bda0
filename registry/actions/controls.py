"""Carrying out a decision on a rollout: ledger, then alias, then MLflow. The one way it is done, by a flow or by hand.

The ledger is the truth and comes first; the alias and MLflow's runs follow from it and are made good by `settle` where a
process died or MLflow failed in between. Knows nothing of how a decision was reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from evermoe.errors import Conflict, NotFound
from registry.book.audit import AuditRow, storable
from registry.book.lease import Lease
from registry.book.ledger import Ledger
from registry.evidence import Verdict
from registry.rollout import Challenger, Decision, Rollout, in_force, listed
from registry.rules.best_arm import Standing
from registry.tracker import pages
from registry.tracker.pages import Told
from registry.tracker.runs import Tracking
from registry.tracker.versions import Version, Versions

PROMOTED = "evermoe.promoted_by"
RESTORED = "evermoe.restored_by"
REPLACED = "evermoe.replaced"
REPLACED_BY = "evermoe.replaced_by"
TOLD = "evermoe.trial_told"  # on a version: the rollout, and its revision, that its pages tell of


@dataclass(frozen=True)
class Controls:
    """Where a decision is written: the ledger first, then versions and runs."""

    ledger: Ledger
    versions: Versions
    tracking: Tracking
    held: Lease | None = None
    """The lease that a flow steers under; a person needs none (`registry/book/lease.py`)."""

    def open(self, rollout: Rollout, by: str, evidence: Mapping[str, Any] | None = None) -> Rollout:
        """Put the challengers on trial. The same rollout again changes nothing.

        Raises `Conflict` as `Ledger.open` does, and when the champion was replaced while the challenger was made.
        """
        if self.ledger.find(rollout.month, rollout.champion) is None:
            self._check_champion(rollout)
        opened = self.ledger.open(rollout, by, evidence, held=self.held)
        if opened.open:
            self.versions.set_alias("challenger", opened.challenger)
        self._tell(opened)
        return opened

    def apply(self, rollout: Rollout, decision: Decision, by: str, now: datetime, proof: Standing) -> Rollout:
        """Carry out a decision made on `rollout` as it was read, and record it. Raises `Conflict` when it has changed since."""
        after = self.carry_out(rollout, decision, by, now, proof)
        self.record(after, proof, now)
        return after

    def carry_out(self, rollout: Rollout, decision: Decision, by: str, now: datetime, proof: Standing) -> Rollout:
        """Ledger and aliases: what users meet. Again after a failure, it goes on from where it failed.

        Raises `Conflict` when the rollout has changed since it was read, by another decision than this one.
        """
        try:
            after = self.ledger.apply(
                rollout.id, decision, by, now, evidence_of(rollout, proof), revision=rollout.revision, held=self.held
            )
        except Conflict:
            if not self._is_carried_out(rollout, decision, by):
                raise
            after = self.ledger.get(rollout.id)
        if not after.open:
            self._settle_aliases(self.ledger.list())
        return after

    def record(self, rollout: Rollout, proof: Standing, now: datetime) -> None:
        """MLflow: a point on the rollout's curves, a run for each decision that has none yet, the pages of the versions."""
        self.tracking.look(rollout, proof, now)
        self._tell(rollout)

    def check_in_place(self, promoted: Rollout) -> None:
        """Raise `Conflict` unless the version that a rollout promoted is champion still, and `NotFound` where the one before it
        is gone: a person may have moved the alias, or deleted a version."""
        self._settle_aliases(self.ledger.list())  # a promotion may have reached the ledger and not yet the alias
        champion = self.versions.champion()
        if champion is None or champion.version != promoted.challenger:
            now = f"version {champion.version}" if champion else "none"
            raise Conflict(
                f"rollout {promoted.id} promoted version {promoted.challenger}, but the champion is {now} by now; there is "
                "nothing to take back"
            )
        self.versions.get(promoted.champion)

    def settle(self) -> None:
        """Make the aliases and MLflow's runs say what the ledger says, where a process died or MLflow failed before they did.

        Cheap where nothing is missing. A promotion is carried out once, and its version's tag says so: an alias that a person
        moved back since stays there.
        """
        rollouts = self.ledger.list()
        self._settle_aliases(rollouts)
        newest = {arm.version: one.id for one in rollouts for arm in one.challengers}
        for one in rollouts[-2:]:  # two, because opening one may have closed the other
            self._tell(one, newest)

    def tell(self, version: Version, told: Told, rollout_run: str = "") -> None:
        """Write what became of a version into its description and its card."""
        link = self.tracking.link(rollout_run) if rollout_run else ""
        words = pages.fill_words(version.description, pages.in_markdown(told, link), version.version)
        if words != version.description:
            self.versions.describe(version.version, words)
        run = self.tracking.run(version.run_id) if version.run_id else None
        card = run.page(pages.CARD) if run else None
        if run and card:
            filled = pages.fill_card(card, pages.in_html(told, rollout_run), version.version)
            if filled != card:
                run.html(filled, pages.CARD)

    def _tell(self, rollout: Rollout, newest: Mapping[str, str] | None = None) -> None:
        """A run in MLflow for each decision that has none yet; then the pages of the versions that were tried, and their tags.

        Cheap where it was done before. A version that a person has deleted since has no pages; one of which another rollout
        is the `newest` has that one's.
        """
        history = self.ledger.history(rollout.id)
        run_id = self.tracking.decisions(rollout, history)
        for one in rollout.challengers:
            if (newest or {}).get(one.version, rollout.id) == rollout.id:
                self._tell_version(rollout, one, history, run_id)

    def _tell_version(self, rollout: Rollout, tried: Challenger, history: Sequence[AuditRow], run_id: str) -> None:
        try:
            version = self.versions.get(tried.version)
        except NotFound:
            return
        mark = f"{rollout.id} {rollout.revision}"
        if version.tags.get(TOLD) == mark:
            return
        self.tell(version, pages.of_rollout(rollout, history, tried), run_id)
        tags = {"evermoe.rollout_run": run_id, "evermoe.trial": "aborted" if tried.out else rollout.status}
        if tried.out or not rollout.open:
            tags |= {"evermoe.trial_reason": tried.out or rollout.reason, "evermoe.decided_by": history[-1].by}
        if rollout.status == "promoted" and not tried.out:
            tags[REPLACED] = rollout.champion
            with suppress(NotFound):
                self.versions.tag(rollout.champion, {REPLACED_BY: tried.version})
        elif rollout.status == "reverted" and version.tags.get(REPLACED) == rollout.champion:
            with suppress(NotFound):
                if self.versions.get(rollout.champion).tags.get(REPLACED_BY) == tried.version:
                    self.versions.untag(rollout.champion, REPLACED_BY)
            self.versions.untag(version.version, REPLACED)
        self.versions.tag(version.version, tags | {TOLD: mark})  # last: it says that nothing is missing

    def is_settled(self, last: Rollout, champion: Version | None) -> bool:
        """Whether this champion, the alias's, is the one to serve after a rollout, the last to end.

        It is not from a promotion, or its way back, to the moment at which the alias has followed.
        """
        if last.status not in ("promoted", "reverted") or champion is None or champion.version == last.serves:
            return True
        tried = {last.champion, *(one.version for one in last.challengers)}
        return champion.version not in tried or self._has_moved(last)

    def _settle_aliases(self, rollouts: Sequence[Rollout]) -> None:
        """The last promoted challenger is champion, or the one before it that came back; nobody is challenger unless on trial."""
        last = in_force(one for one in reversed(rollouts) if not one.open)
        if last is not None and not self._has_moved(last):
            self.versions.set_alias("champion", last.serves)
            self.versions.tag(last.serves, {_mark(last): last.id})
        if not rollouts:
            return
        if not rollouts[-1].open:
            self.versions.drop_alias("challenger")
        elif (named := self.versions.challenger()) is None or named.version in _out(rollouts[-1]):
            with suppress(NotFound):
                self.versions.set_alias("challenger", rollouts[-1].challenger)

    def _has_moved(self, last: Rollout) -> bool:
        """Whether the alias champion has followed the end of this rollout, or its way back. Where somebody deleted the version
        that came of it, who is champion is theirs to say."""
        try:
            return self.versions.get(last.serves).tags.get(_mark(last)) == last.id
        except NotFound:
            return True

    def _check_champion(self, rollout: Rollout) -> None:
        """Raise `Conflict` unless the champion is the one that the challenger was made from."""
        self._settle_aliases(self.ledger.list())  # a promotion may have reached the ledger and not yet the alias
        champion = self.versions.champion()
        if champion is None or champion.version != rollout.champion:
            now = f"version {champion.version}" if champion else "none"
            versions = listed(one.version for one in rollout.challengers)
            raise Conflict(
                f"version {versions} cannot be tried against version {rollout.champion}: the champion is {now} by now; start "
                "an update to make a challenger of it"
            )

    def _is_carried_out(self, rollout: Rollout, decision: Decision, by: str) -> bool:
        """Whether the first thing that happened to the rollout since it was read is this very decision."""
        rows = self.ledger.history(rollout.id)
        row = next((row for row in rows if row.revision == rollout.revision + 1), None)
        mine = (decision.action, decision.share, storable(by), storable(decision.reason))
        return row is not None and (row.action, row.share, row.by, row.reason) == mine


def _mark(ended: Rollout) -> str:
    """The tag that says which rollout made the version that it left in place champion."""
    return PROMOTED if ended.status == "promoted" else RESTORED


def _out(rollout: Rollout) -> set[str]:
    return {one.version for one in rollout.challengers if one.out}


def evidence_of(rollout: Rollout, proof: Standing) -> dict[str, Any]:
    """What the audit and MLflow keep of a proof: the figures of one challenger, or of each by its version under `arms`."""
    if not rollout.several:
        return _figures(proof.verdict())
    arms = {rollout.version(arm): _figures(verdict) for arm, verdict in proof.verdicts.items()}
    return {"at": proof.verdict().at.isoformat(), "rewards": proof.rewards, "arms": arms}


def _figures(verdict: Verdict) -> dict[str, Any]:
    figures = asdict(verdict)
    low, high = figures.pop("interval")
    rewards, means = figures.pop("rewards"), figures.pop("means")
    flat = {f"rewards_{arm}": count for arm, count in rewards.items()}
    flat |= {f"mean_{arm}": mean for arm, mean in means.items() if mean is not None}
    return {**figures, "at": verdict.at.isoformat(), "lift_low": low, "lift_high": high, **flat}
