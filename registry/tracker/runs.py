"""The month as a reviewer reads it in MLflow: one run a month, a child run for each step, a run for each rollout decision.

    2025-06
    ├─ drift       report (HTML), scores, verdict
    ├─ snapshot    the rows as an MLflow dataset, its digest the md5 DVC tracks
    ├─ train       parameters, curves
    ├─ distil      parameters, curves
    ├─ align       parameters, curves, where thumbs came
    ├─ gates       each gate's figures
    └─ rollout     share, e-values, lift and interval as curves over looks
       ├─ open at 0.05
       ├─ advance to 0.1
       └─ promote

Knows MLflow's runs and nothing of what the steps do. Uses a client, never MLflow's global "active run", because flows run in
several processes and threads. Every run is found again by its key, so a retried step goes on in the run it began.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, Run, RunTag

from evermoe.errors import BadInput
from registry.book.audit import AuditRow
from registry.rollout import Rollout
from registry.rules.best_arm import Standing
from registry.snapshots import Snapshot
from registry.tracker.client import connect, experiment_id, in_one_line, mlflow_errors
from registry.tracker.system_metrics import watching

StepName = Literal["drift", "snapshot", "train", "distil", "align", "gates", "rollout"]
STEPS: tuple[StepName, ...] = ("drift", "snapshot", "train", "distil", "align", "gates", "rollout")
_BATCH = 1000  # metrics in one call, MLflow's limit
_RECORDED = "evermoe.recorded"  # on a rollout's run: the revision up to which all is logged
_creating = threading.Lock()


@dataclass(frozen=True)
class SeenDrift:
    """A drift verdict as MLflow keeps it: of the window before `until`; each score with the threshold it was held against."""

    until: datetime
    drifted: bool
    scores: dict[str, tuple[float, float | None]]
    run_id: str


class StepRun:
    """One run of the tree, open for logging."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    @in_one_line
    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters. MLflow keeps the first value of each; what a retry changed is kept in a tag `retried.<name>`."""
        known = self.client.get_run(self.run_id).data.params
        new = {name: str(value)[:6000] for name, value in values.items()}
        self.client.log_batch(
            self.run_id,
            params=[Param(name, value) for name, value in new.items() if name not in known],
            tags=[
                RunTag(f"retried.{name}", value[:5000])
                for name, value in new.items()
                if known.get(name, value) != value
            ],
        )

    def metrics(self, values: Mapping[str, float], *, step: int = 0, at: datetime | None = None) -> None:
        """Log one value of each metric. `at` is the time on MLflow's axis; None takes the clock's."""
        self._log([_metric(name, value, step, at) for name, value in values.items()])

    def curve(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Log a whole curve, (step, value) by (step, value)."""
        self._log([_metric(name, value, step, None) for step, value in points])

    @in_one_line
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, replacing those that are there."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, str(value)[:5000]) for name, value in values.items()])

    @in_one_line
    def describe(self, text: str) -> None:
        """The note that MLflow shows above the run (Markdown)."""
        self.client.set_tag(self.run_id, "mlflow.note.content", text)

    @in_one_line
    def html(self, content: str, name: str) -> None:
        """Keep a page as an artifact, `drift/report.html` say; MLflow shows it in place."""
        self.client.log_text(self.run_id, content, name)

    @in_one_line
    def page(self, name: str) -> str | None:
        """A page that was kept, or None where there is none."""
        if name not in {file.path for file in self.client.list_artifacts(self.run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(self.run_id, name, folder)).read_text(encoding="utf-8")

    @in_one_line
    def record(self, content: Mapping[str, Any], name: str) -> None:
        """Keep data as a JSON artifact."""
        self.client.log_text(self.run_id, json.dumps(content, indent=1, ensure_ascii=False, default=str), name)

    @in_one_line
    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or all of a folder, as artifacts."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The machine's processor, memory, disk, network and GPU as curves of this run, for as long as it lasts."""
        with watching(self.run_id, self.client.tracking_uri):
            yield

    @in_one_line
    def dataset(self, snapshot: Snapshot, context: str, part: str = "", rows: int | None = None) -> None:
        """Name a snapshot as this run's input: `snapshot-2025-06` with DVC's md5 as its digest. `context` as in "training".

        MLflow knows one use of a dataset in a run, so a `part` of `rows` that is used otherwise, "held-out" say, has a name of
        its own.
        """
        columns = [{"type": "string", "name": name, "required": True} for name in ("text", "label", "unit", "source")]
        columns.append({"type": "datetime", "name": "at", "required": True})
        entity = Dataset(
            name=f"snapshot-{snapshot.name}{f'-{part}' if part else ''}",
            digest=snapshot.md5,
            source_type="local",
            source=json.dumps({"uri": str(snapshot.path)}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": snapshot.rows if rows is None else rows}),
        )
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    @in_one_line
    def produced(self, model_id: str) -> None:
        """Name a logged model as this run's output, so that MLflow links the two."""
        known = self.client.get_run(self.run_id).outputs
        if known is None or model_id not in {output.model_id for output in known.model_outputs}:
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])

    @in_one_line
    def _log(self, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])


class Tracking:
    """The platform's experiment. Raises `ServiceUnreachable` or `StorageUnavailable` at once when MLflow is not there."""

    def __init__(self, tracking_uri: str, artifacts: Path | None = None) -> None:
        self.uri = tracking_uri
        self.client = connect(tracking_uri)
        self.experiment = experiment_id(self.client, artifacts)

    @in_one_line
    def month_run(self, month: str) -> str:
        """The run of a month ("2025-06"), made on first use: its id."""
        return self._find_or_create(month, f"month:{month}", {"evermoe.month": month, "evermoe.kind": "month"}, None)

    @contextmanager
    def step(self, month: str, name: StepName, attempt_key: str) -> Iterator[StepRun]:
        """The run of a month's step. The same key goes on in the same run; an exception marks it failed and says why."""
        if name not in STEPS:
            raise BadInput(f"{name!r} is no step of a month; the steps are {', '.join(STEPS)}")
        parent = self.month_run(month)
        run = self._step_run(month, name, attempt_key, parent)
        with mlflow_errors(self.uri):
            self.client.update_run(run.run_id, status="RUNNING")
        try:
            yield run
        except BaseException as error:
            with suppress(Exception):  # what broke the step may keep MLflow from hearing of it, and is what to tell
                run.tags({"evermoe.error": f"{type(error).__name__}: {error}"})
                self._end(run.run_id, parent, "FAILED")
            raise
        with mlflow_errors(self.uri):
            if "evermoe.error" in self.client.get_run(run.run_id).data.tags:
                run.tags({"evermoe.error": ""})
            self._end(run.run_id, parent, "FINISHED")

    def run(self, run_id: str) -> StepRun:
        """A run that is there, to read from it or to add to it."""
        return StepRun(self.client, run_id)

    @in_one_line
    def find(self, month: str, name: StepName, attempt_key: str) -> str | None:
        """The id of a step's run, if it has one."""
        found = self._search(_tagged(_step_key(month, name, attempt_key)))
        return str(found[0].info.run_id) if found else None

    @in_one_line
    def latest_drift(self) -> SeenDrift | None:
        """The verdict of the last window that was compared with the champion's own data, if one was."""
        found = self.client.search_runs(
            [self.experiment],
            "tags.`evermoe.kind` = 'drift' and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["start_time DESC"],
        )
        if not found:
            return None
        tags, metrics = found[0].data.tags, found[0].data.metrics
        scores = {name.removeprefix("score."): value for name, value in metrics.items() if name.startswith("score.")}
        return SeenDrift(
            until=datetime.fromisoformat(tags["evermoe.key"].split(":", 2)[2]),
            drifted=tags.get("evermoe.drifted") == "true",
            scores={name: (score, metrics.get(f"threshold.{name}")) for name, score in sorted(scores.items())},
            run_id=str(found[0].info.run_id),
        )

    def link(self, run_id: str, rest: str = "") -> str:
        """Where a run is in MLflow's pages, seen from any of them; `rest` as in "/artifacts/card.html"."""
        return f"#/experiments/{self.experiment}/runs/{run_id}{rest}"

    @in_one_line
    def look(self, rollout: Rollout, proof: Standing, now: datetime) -> str:
        """Add what one look at a rollout saw to its curves; the x axis is minutes since it opened. Returns the run's id.

        Of several challengers each has curves of its own: `lift.5` is version 5's.
        """
        run = self._rollout_run(rollout)
        minute = max(0, int((now - rollout.opened_at).total_seconds() // 60))
        values = {"share": rollout.share}
        for one in rollout.challengers:
            verdict, own = proof.verdict(one.arm), f".{one.version}" if rollout.several else ""
            values |= {
                f"share{own}": one.share,
                f"e_promote{own}": verdict.e_promote,
                f"e_abort{own}": verdict.e_abort,
                f"lift{own}": verdict.lift,
                f"lift_low{own}": verdict.interval[0],
                f"lift_high{own}": verdict.interval[1],
            }
            values |= {f"rewards_{arm}{own}": float(count) for arm, count in verdict.rewards.items()}
            values |= {f"mean_{arm}{own}": mean for arm, mean in verdict.means.items() if mean is not None}
        run.metrics(values, step=minute, at=now)
        return run.run_id

    @in_one_line
    def decisions(self, rollout: Rollout, history: Sequence[AuditRow]) -> str:
        """Give every row of a rollout's audit a run of its own, once, by hand or by flow. Returns the rollout run's id.

        Cheap where it was done before.
        """
        parent = self._rollout_run(rollout)
        if self.client.get_run(parent.run_id).data.tags.get(_RECORDED) == str(rollout.revision):
            return parent.run_id
        logged = {
            run.data.tags.get("evermoe.key")
            for run in self._search(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
            if run.info.status == "FINISHED"  # one that is not was interrupted: it goes on in the run it began
        }
        for row in history:
            if f"decision:{row.rollout}:{row.revision}" not in logged:
                self._decision(rollout, row, parent.run_id)
        if not rollout.open:
            parent.tags({"evermoe.decision": rollout.status, "evermoe.reason": rollout.reason})
            parent.describe(f"**{rollout.status}**: {rollout.reason}")
            self._end(parent.run_id, self.month_run(rollout.month), "FINISHED")
        parent.tags({_RECORDED: rollout.revision})  # last: it says that nothing is missing
        return parent.run_id

    def _decision(self, rollout: Rollout, row: AuditRow, parent: str) -> None:
        key = f"decision:{row.rollout}:{row.revision}"
        tags = {"evermoe.month": rollout.month, "evermoe.kind": "decision", "evermoe.action": row.action}
        run = StepRun(self.client, self._find_or_create(_title(row), key, tags, parent, row.at))
        run.params({"action": row.action, "by": row.by, "at": row.at.isoformat(), "revision": row.revision})
        run.tags({"evermoe.reason": row.reason, "evermoe.audit_hash": row.hash})
        run.describe(f"**{_title(row)}** by {row.by}: {row.reason}")
        figures = _numbers(row.evidence)
        for version, of_version in row.evidence.get("arms", {}).items():
            figures |= {f"{name}.{version}": value for name, value in _numbers(of_version).items()}
        if len(row.shares) > 1:
            figures |= {f"share.{version}": share for version, share in row.shares.items()}
        run.metrics({"share": row.share} | figures, at=row.at)
        run.record(row.evidence, "evidence.json")
        self.client.set_terminated(run.run_id, "FINISHED")

    def _rollout_run(self, rollout: Rollout) -> StepRun:
        run = self._step_run(rollout.month, "rollout", rollout.id, self.month_run(rollout.month))
        versions = ", ".join(one.version for one in rollout.challengers)
        run.params({"champion": rollout.champion, "challenger": versions, "salt": rollout.salt})
        return run

    @in_one_line
    def _step_run(self, month: str, name: StepName, key: str, parent: str) -> StepRun:
        tags = {"evermoe.month": month, "evermoe.kind": name}
        return StepRun(self.client, self._find_or_create(name, _step_key(month, name, key), tags, parent))

    def _find_or_create(
        self, name: str, key: str, tags: Mapping[str, str], parent: str | None, at: datetime | None = None
    ) -> str:
        """The run with this key. Of two processes that make it at once, the later one takes its own away again."""
        with _creating:
            if found := self._search(_tagged(key)):
                return str(found[0].info.run_id)
            all_tags = {"evermoe.key": key, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
            if at is not None:
                all_tags["evermoe.at"] = at.astimezone(UTC).isoformat()
            mine = self.client.create_run(self.experiment, run_name=name, tags=all_tags).info.run_id
            first = self._search(_tagged(key))[0].info.run_id
            if first != mine:
                self.client.delete_run(mine)
            return str(first)

    def _search(self, condition: str) -> list[Run]:
        """Runs that match, the oldest first, all pages."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], condition, max_results=1000, order_by=["start_time ASC"], page_token=token
            )
            found += page
            if not (token := page.token):
                return found

    def _end(self, run_id: str, parent: str, status: str) -> None:
        """Between steps the month's run is as finished, or failed, as its last step."""
        self.client.set_terminated(run_id, status)
        self.client.set_terminated(parent, status)


def _step_key(month: str, name: StepName, attempt_key: str) -> str:
    return f"{name}:{month}:{attempt_key}"


def _tagged(key: str) -> str:
    if "'" in key:
        raise BadInput(f"{key}: MLflow cannot search for a key with a quote in it")
    return f"tags.`evermoe.key` = '{key}'"


def _title(row: AuditRow) -> str:
    return {
        "open": f"open at {row.share:g}",
        "advance": f"advance to {row.share:g}",
        "shift": f"shift to {row.share:g}",
        "share": f"share {row.share:g}",
    }.get(row.action, row.action)


def _numbers(evidence: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow can draw of an audit's evidence."""
    return {k: float(v) for k, v in evidence.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _metric(name: str, value: float, step: int, at: datetime | None) -> Metric:
    """A metric that MLflow's databases can store: infinities are cut, as MLflow itself would."""
    number = float(value)
    if math.isinf(number):
        number = math.copysign(1.7976931348623157e308, number)
    moment = datetime.now(UTC) if at is None else at
    return Metric(name, number, int(moment.timestamp() * 1000), step)
