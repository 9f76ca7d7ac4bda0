"""The demo's course: start the servers, make the base, live the months. Knows every part by its front door only."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commands import services
from commands.demo_plan import Plan
from commands.demo_users import Answer, Habits, Users
from commands.processes import Processes, free_ports
from evermoe.months import end_of, start_of
from evermoe.settings import Params, Settings
from model import Example, LanguageModel, from_pretrained
from model.baseline import baseline_answers, train_baseline
from streams import Columns, Record

if TYPE_CHECKING:
    from flows.runtime.parts import Parts

FOLLOW_SECONDS = 60


@dataclass
class Month:
    """What happened in one month."""

    month: str
    drift: bool = False
    accuracy: dict[str, float | None] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    decision: str = "none"
    reason: str = ""


@dataclass
class Result:
    """What a demo shows at its end."""

    months: list[Month]
    champion: str
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "months": [vars(month) for month in self.months],
            "champion": {"version": self.champion},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


@dataclass(frozen=True)
class Source:
    """Where the records come from, as the user named it."""

    stream: str
    path: Path | None
    columns: Columns


class Replay:
    """One demo. Servers listen on free loopback ports, so a demo runs beside anything."""

    def __init__(self, here: Settings, params: Params, source: Source, plan: Plan, console: Console) -> None:
        self.params, self.source, self.plan, self.console = params, source, plan, console
        gateway, prefect = free_ports(2)
        self.here = here.model_copy(update={"gateway_port": gateway, "prefect_port": prefect})
        self.seconds: dict[str, float] = {}
        self.generator = random.Random(params.demo.seed)

    def run(self, began: float) -> Result:
        """All of it. `began` is the monotonic time at which the user pressed Enter."""
        os.environ.pop("PREFECT_API_URL", None)  # a server the user runs has deployments of the same names
        os.environ.update(services.environment(self.here), PREFECT_LOGGING_LEVEL="CRITICAL")
        with Processes(self.here.home / "logs") as processes, self.bars() as bars:
            with self.timed("servers"):
                task = bars.add_task("starting Prefect", total=None)
                processes.start(services.prefect_server(self.here))
                processes.wait_until_ready()
                bars.remove_task(task)
            self.make_base(bars)
            with self.timed("servers"):
                task = bars.add_task("starting the gateway and the runner", total=None)
                processes.start(services.gateway(self.here, replay=True), services.runner(self.here, paused=True))
                processes.wait_until_ready()
                bars.remove_task(task)
            result = self.live(processes, bars)
        self.seconds["total"] = time.monotonic() - began
        return result

    def make_base(self, bars: Progress) -> None:
        """Version 1, trained in this process with a bar."""
        from flows.base import base
        from flows.runtime.progress import listening

        task = bars.add_task("training the base", total=None)
        with self.timed("base"), listening(lambda what, done, of: bars.update(task, completed=done, total=of)):
            path = str(self.source.path) if self.source.path else None
            base(self.source.stream, path, self.plan.start, self.source.columns)
        bars.remove_task(task)

    def live(self, processes: Processes, bars: Progress) -> Result:
        """Month after month: users, looks at the rollout, drift, update."""
        from flows.runtime.parts import open_parts

        url = services.local_url(self.here, self.here.gateway_port)
        habits = Habits(self.params.demo.feedback_missing, self.params.demo.feedback_delay_days)
        with open_parts() as parts, httpx.Client(base_url=url, timeout=60) as client:
            frozen = from_pretrained(parts.versions.weights(self.champion(parts)))
            users = Users(client, habits, self.generator)
            past = [Example(record.text, record.label) for record in self.plan.before if record.label is not None]
            done: list[Month] = []
            idle = "no update yet"
            for month, records in self.plan.months.items():
                processes.check()
                outcome = Month(month, reason=idle)
                answers = self.traffic(users, outcome, records, parts, client, bars)
                with self.timed("rivals"):
                    outcome.accuracy = compare(answers, frozen, past)
                past += [Example(record.text, record.label) for record in records if record.label is not None]
                outcome.drift = self.month_end(month, parts, bars)
                self.follow(parts, client)
                idle = why_idle(parts, month)
                done.append(outcome)
                self.console.print(line_of(outcome), highlight=False, soft_wrap=True, markup=False)
            return Result(done, self.champion(parts), self.seconds)

    def traffic(
        self,
        users: Users,
        outcome: Month,
        records: tuple[Record, ...],
        parts: Parts,
        client: httpx.Client,
        bars: Progress,
    ) -> list[Answer]:
        """The users of one month, with a look at the rollout every day or so."""
        begin, end = start_of(outcome.month), end_of(outcome.month)
        count = self.params.demo.looks_per_month
        looks = [begin + (end - begin) * (index + 1) / (count + 1) for index in range(count)]
        looks = [moment.replace(second=0, microsecond=0) for moment in looks]
        looks.append(end - timedelta(seconds=1))
        answers: list[Answer] = []
        task = bars.add_task(f"{outcome.month}: users ask", total=len(records))
        looking = 0.0

        def look(now: datetime) -> None:
            nonlocal looking
            began = time.monotonic()
            self.look(outcome, now, parts, client)
            looking += time.monotonic() - began

        def answered(answer: Answer) -> None:
            answers.append(answer)
            bars.advance(task)

        began = time.monotonic()
        users.live(records, end, looks, look, answered)
        self.add("serving", time.monotonic() - began - looking)
        self.add("rollout flow", looking)
        bars.remove_task(task)
        return answers

    def look(self, outcome: Month, now: datetime, parts: Parts, client: httpx.Client) -> None:
        """One run of the rollout flow at the month's own time."""
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.rollout import rollout

        if not in_motion(parts, now):
            outcome.shares.append(0.0)
            return
        with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # it costs a second a flow
            decision = rollout(now)
        if decision is None:
            return
        outcome.shares.append(1.0 if decision.action == "promote" else decision.share)
        outcome.decision, outcome.reason = decision.action, decision.reason
        if decision.action != "hold":
            self.follow(parts, client)

    def month_end(self, month: str, parts: Parts, bars: Progress) -> bool:
        """Drift, and the update: started by the drift event where there is one, else as the calendar would."""
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from commands.demo_runs import start_update, wait_for_update
        from flows.drift import drift

        task = bars.add_task(f"{month}: drift", total=None)
        with self.timed("drift flow"), temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            seen = drift(end_of(month))
        with self.timed("monthly flow"):
            if not seen.announced:
                start_update(month, end_of(month))
            wait_for_update(month, end_of(month), lambda what: bars.update(task, description=f"{month}: {what}"))
        bars.remove_task(task)
        return bool(seen.verdict.drifted)

    def follow(self, parts: Parts, client: httpx.Client) -> None:
        """Wait until the gateway serves what the ledger and the registry say."""
        plan, champion = parts.ledger.plan(), self.champion(parts)
        wanted = (champion, plan.challenger if plan else None, plan.revision if plan else None)
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline:
            ready = client.get("/ready").json()
            if (ready["champion"], ready["challenger"], ready["revision"]) == wanted:
                return
            time.sleep(0.05)
        raise TimeoutError(f"the gateway does not follow: it serves {ready}, wanted {wanted}")

    @staticmethod
    def champion(parts: Parts) -> str:
        """The champion's version; a demo has one from its base on."""
        champion = parts.versions.champion()
        assert champion is not None
        return champion.version

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds inside to `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add to the account that the report and the loop's cost are made from."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def bars(self) -> Progress:
        """Progress on stderr; silent where that is no terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True)


def compare(answers: list[Answer], frozen: LanguageModel, past: list[Example]) -> dict[str, float | None]:
    """Accuracy of the platform, of the frozen base and of the baseline retrained on all the past, on the same questions."""
    known = [answer for answer in answers if answer.right is not None]
    if not known:
        return {"frozen": None, "platform": None, "baseline": None}
    texts, right = [answer.text for answer in known], [answer.right for answer in known]
    given = {
        "frozen": [answer.label for answer in frozen.classify(texts)],
        "platform": [answer.label for answer in known],
        "baseline": baseline_answers(train_baseline(past), texts),
    }
    return {
        name: sum(a == r for a, r in zip(labels, right, strict=True)) / len(right) for name, labels in given.items()
    }


def in_motion(parts: Parts, now: datetime) -> bool:
    """Whether a look could find something to do: a flow takes its time, and most days of a demo nobody is on trial."""
    from flows.gates.trial import waiting
    from flows.runtime.parts import policy_of
    from registry.deciding import is_watched
    from registry.rollout import in_force

    rollouts = parts.ledger.list()
    if not rollouts or rollouts[-1].open:
        return bool(rollouts)
    last = in_force(reversed(rollouts))
    watched = last is not None and is_watched(last, policy_of(parts.params), now)
    return watched or bool(waiting(parts))


def why_idle(parts: Parts, month: str) -> str:
    """Why nobody would be on trial after the update of `month`."""
    made = [version for version in parts.versions.all() if version.month.startswith(month)]
    if not made:
        from flows.gates.checks import stopped

        return "; ".join(f"{one['check']}: {one['reason']}" for one in stopped(parts, month)) or "no update"
    tags = made[-1].tags
    if tags.get("evermoe.gates") == "failed":
        return f"version {made[-1].version} failed a gate: {tags.get('evermoe.gates_failed', '')}"
    return "no challenger on trial"


def line_of(month: Month) -> str:
    """One line as a month ends."""
    shown = ", ".join(f"{name} {value:.1%}" for name, value in month.accuracy.items() if value is not None)
    drift = "drift" if month.drift else "no drift"
    return f"{month.month}  {shown or 'nobody asked'}; {drift}; {month.decision}: {month.reason}"
