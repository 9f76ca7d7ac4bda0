"""Months lived in this process: users ask both arms of the model, tell what was right, and the flows do the rest.

A home as `evermoe demo` leaves it, without a gateway: for tests and pictures of what people see in MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from evermoe.months import end_of, start_of
from flows.runtime.parts import Parts
from model import LanguageModel, from_pretrained
from monitoring.events import Feedback, Request
from registry.assignment import assign
from streams import Record

LOOKS = 3


@dataclass
class Users:
    """Who asks the platform, and tells an hour later."""

    parts: Parts
    asked: int = 0

    def live(self, month: str, records: Sequence[Record]) -> str | None:
        """A month: its questions, looks at the rollout in between, and the update at its end. Returns the version it made."""
        from flows.monthly import monthly
        from flows.rollout import rollout

        begin, end = start_of(month), end_of(month)
        moments = [begin + (end - begin) * (number + 1) / LOOKS for number in range(LOOKS)]
        waiting = sorted(records, key=lambda record: record.at)
        for moment in moments:
            self.ask([record for record in waiting if record.at < moment])
            waiting = [record for record in waiting if record.at >= moment]
            rollout(moment.replace(microsecond=0) - timedelta(seconds=1))
        return monthly(month, end)

    def ask(self, records: Sequence[Record]) -> None:
        """One request of each, as the gateway would log it, with its feedback an hour later."""
        if not records:
            return
        champion, plan = self.parts.versions.champion(), self.parts.ledger.plan()
        assert champion is not None
        texts = [record.text for record in records]
        serving = [answer.label for answer in self._model(champion.version).classify(texts)]
        trying = [answer.label for answer in self._model(plan.challenger).classify(texts)] if plan else serving
        for record, *says in zip(records, serving, trying, strict=True):
            self.asked += 1
            id = log(self.parts, self.asked, record.at, record.text, record.unit, *says)
            self.parts.events.record(Feedback(f"told-{id}", id, told_at(record.at), None, record.label))

    def _model(self, version: str) -> LanguageModel:
        return loaded(str(self.parts.versions.weights(version)))


def log(parts: Parts, number: int, at: datetime, text: str, unit: str | None, serving: str, trying: str) -> str:
    """A request as the gateway would log it; what the champion says to it, and the challenger, if there is one. Returns its id."""
    champion, plan = parts.versions.champion(), parts.ledger.plan()
    assert champion is not None
    id, unit = f"clsf-{number}", unit or f"unit-{number}"
    arm, propensity = assign(plan.salt, unit, {"challenger": plan.share}) if plan else ("champion", 1.0)
    mine, shadow = (trying, serving) if arm == "challenger" else (serving, trying)
    request = Request(
        id=id,
        at=at,
        kind="classify",
        unit=unit,
        unit_given=True,
        input=text,
        output=mine,
        scores={mine: 1.0},
        rollout=plan.rollout if plan else None,
        arm=arm,
        version=plan.challenger if plan and arm == "challenger" else champion.version,
        propensity=propensity,
        latency_ms=1.0,
        prompt_tokens=4,
        output_tokens=0,
        experts=(1, 2),
        shadow=shadow if plan else None,
    )
    parts.events.record(request)
    return id


def told_at(at: datetime) -> datetime:
    """When its user says what was right."""
    return at + timedelta(hours=1)


@cache
def loaded(folder: str) -> LanguageModel:
    """A model, read once."""
    return from_pretrained(folder)
