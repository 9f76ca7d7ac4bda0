"""Users, played from dated records: each asks at its record's time, and tells later, or never, what the right answer was.

Knows the gateway by its HTTP API alone; it holds a record's label back until the moment its user would tell.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import httpx

from evermoe.errors import ServiceUnreachable


class Asked(Protocol):
    """What a user brings: the time, the text, the right label (told later) and who asks."""

    @property
    def at(self) -> datetime: ...
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def unit(self) -> str | None: ...


@dataclass(frozen=True)
class Habits:
    """How users behave: the share that never tells, and the mean delay (exponential, in days) of those who do."""

    feedback_missing: float
    feedback_delay_days: float


@dataclass(frozen=True)
class Answer:
    """What the platform answered to one record, and the model version (`evermoe:3`) that did."""

    text: str
    right: str | None
    label: str
    model: str


@dataclass(order=True)
class _Event:
    at: datetime
    order: int
    act: Callable[[datetime], None] = field(compare=False)


class Users:
    """The people behind a stream. Feedback still on its way at a month's end arrives in the next."""

    def __init__(self, client: httpx.Client, habits: Habits, generator: random.Random) -> None:
        self.client, self.habits, self.generator = client, habits, generator
        self.waiting: list[_Event] = []
        self.order = itertools.count()

    def live(
        self,
        records: Sequence[Asked],
        until: datetime,
        looks: Iterable[datetime],
        on_look: Callable[[datetime], None],
        on_answer: Callable[[Answer], None],
    ) -> None:
        """Play everything before `until` in the order of time: questions, feedback that falls due, and the given looks."""
        for record in records:
            self._at(record.at, lambda now, record=record: on_answer(self._ask(record, now)))  # type: ignore[misc]
        for look in looks:
            self._at(look, on_look)
        while self.waiting and self.waiting[0].at < until:
            event = heapq.heappop(self.waiting)
            event.act(event.at)

    def _at(self, at: datetime, act: Callable[[datetime], None]) -> None:
        heapq.heappush(self.waiting, _Event(at, next(self.order), act))

    def _ask(self, record: Asked, now: datetime) -> Answer:
        body = {"input": record.text, **({"user": record.unit} if record.unit else {})}
        answer = self._post("/v1/classify", body, now)
        if record.label is not None and self.generator.random() >= self.habits.feedback_missing:
            told = now + timedelta(days=self.generator.expovariate(1 / self.habits.feedback_delay_days))
            feedback = {"id": answer["id"], "label": record.label, "key": f"told-{answer['id']}"}
            self._at(told, lambda at: self._tell(feedback, at))
        return Answer(record.text, record.label, answer["label"], answer["model"])

    def _tell(self, feedback: dict[str, str], now: datetime) -> None:
        self._post("/v1/feedback", feedback, now)

    def _post(self, path: str, body: dict[str, str], now: datetime) -> dict[str, str]:
        try:
            response = self.client.post(path, json=body, headers={"X-Evermoe-At": now.isoformat()})
        except httpx.TransportError as error:
            raise ServiceUnreachable(f"the gateway at {self.client.base_url} does not answer ({error})") from None
        if response.is_error:
            raise ServiceUnreachable(f"the gateway answered {response.status_code} to {path}: {response.text[:200]}")
        answered: dict[str, str] = response.json()
        return answered
