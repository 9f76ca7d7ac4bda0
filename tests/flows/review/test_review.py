"""A reviewer with a browser, MLflow's pages and nothing else: why did it replace the last, which data made it, what got worse.

With EVERMOE_REVIEW_STREAM=ansible the months are real ones; with EVERMOE_SCREENSHOTS=FOLDER each page that is looked at is kept
there. The pictures of docs/reviewing.md are made with both.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from commands import services
from commands.processes import free_ports
from evermoe.months import after, month_of, start_of
from evermoe.settings import ROOT, settings
from flows.runtime.parts import Parts, open_parts
from registry.tracker.versions import Version
from streams import Record, open_stream
from tests.browser import Browser, shown
from tests.flows.lived import Users

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # it lives four months first
REAL = os.environ.get("EVERMOE_REVIEW_STREAM")
FIRST = "2025-03"
MONTHS = 4
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
NOUNS = {
    "net.switch": ["vlan", "port", "route", "trunk", "uplink"],
    "db.sql": ["table", "index", "query", "row", "schema"],
    "web.page": ["button", "form", "menu", "banner", "footer"],
    HOSTILE: ["key", "token", "secret", "cipher", "hash"],
}
VERBS = ["fix", "add", "remove", "rename", "document", "test", "speed up", "deprecate"]
WAYS = ["option", "default", "check", "limit"]
SMALL: dict[str, dict[str, object]] = {
    "model": {"vocab_size": 400, "hidden_size": 32, "heads": 2, "experts": 16, "experts_per_token": 4}
    | {"fewest_per_token": 1, "most_per_token": 8, "experts_at_first": 8, "expert_size": 16, "shared_expert_size": 16},
    "base": {"epochs": 6, "min_steps": 0, "batch_size": 32, "learning_rate": 1.0e-2},
    "update": {"epochs": 4, "distil_epochs": 4, "learning_rate": 5.0e-3, "distil_learning_rate": 5.0e-3},
    "gates": {"calibration_error": 0.9, "latency_ratio": 20.0, "past_month_loss": 50.0, "past_average_loss": 30.0},
    "rollout": {"shares": [0.5], "min_rewards_per_step": 1},
}
HALF: dict[str, dict[str, object]] = {
    "model": {"vocab_size": 1024, "hidden_size": 64, "experts": 32, "experts_per_token": 6, "most_per_token": 12}
    | {"fewest_per_token": 2, "experts_at_first": 16, "max_length": 40},
    "base": {"max_records": 2000, "batch_size": 16},
    "gates": {"latency_ratio": 20.0, "past_month_loss": 15.0, "past_average_loss": 8.0, "examples_per_month": 30},
    "rollout": {"shares": [0.5]},
}


def tickets() -> list[Record]:
    """Two labels from the beginning, a third from March on, a fourth, which no page may take for its own, from April."""
    generator, found = random.Random(1), []
    since = dict(zip(NOUNS, ("2024-10", "2024-10", "2025-03", "2025-04"), strict=True))
    for label, nouns in NOUNS.items():
        every = [" ".join((verb, "the", *words)) for verb, *words in itertools.product(VERBS, nouns, WAYS)]
        generator.shuffle(every)
        begin, end = start_of(since[label]), start_of("2025-07")
        for number, text in enumerate(every):
            at = begin + (end - begin) * number / len(every)
            found.append(Record(at + timedelta(minutes=7), text, label, f"unit-{len(found)}", "tickets"))
    return sorted(found, key=lambda record: record.at)


@dataclass(frozen=True)
class Review:
    """A home that has lived some months, and MLflow's pages of it."""

    parts: Parts
    mlflow: str

    @property
    def promoted(self) -> Version:
        """The last version that replaced another."""
        return [one for one in self.parts.versions.all() if one.tags.get("evermoe.trial") == "promoted"][-1]

    def run(self, run_id: str | None, rest: str = "") -> str:
        """The address of a run's page."""
        return f"{self.mlflow}/{self.parts.tracking.link(str(run_id), rest)}"


def write_params(folder: Path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in (HALF if REAL else SMALL).items():
        params[section] |= values
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return file


def live(records: Sequence[Record], stream: str, path: Path | None) -> None:
    """A base of what was before the first month, then month after month."""
    from flows.base import base

    base(stream, str(path) if path else None, FIRST)
    with open_parts() as parts:
        users, month = Users(parts), FIRST
        for _ in range(MONTHS):
            users.live(month, [one for one in records if one.label is not None and month_of(one.at) == month])
            month = after(month)


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.mktemp("review")
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERMOE_HOME", str(folder / "home"))
        patch.setenv("EVERMOE_PARAMS", str(write_params(folder)))
        patch.setenv("EVERMOE_MLFLOW_PORT", str(port))
        settings.cache_clear()
        with prefect_test_harness(server_startup_timeout=120):
            if REAL:
                live(list(open_stream(REAL, path=None, cache=settings().cache).records()), REAL, None)
            else:
                path = folder / "tickets.jsonl"
                path.write_text("".join(f"{as_json(record)}\n" for record in tickets()))
                live(tickets(), "files", path)
        server = services.mlflow_server(settings())
        with (folder / "mlflow.log").open("wb") as log:
            process = subprocess.Popen(server.argv, env={**os.environ, **server.env}, stdout=log, stderr=log)
        try:
            wait_for(str(server.ready))
            with open_parts() as parts:
                yield Review(parts, services.local_url(settings(), port))
        finally:
            process.terminate()
            process.wait(30)
    settings.cache_clear()


def as_json(record: Record) -> str:
    import json

    return json.dumps({"at": record.at.isoformat(), "text": record.text, "label": record.label, "unit": record.unit})


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise TimeoutError(address)


@pytest.fixture(autouse=True)
def harmless(browser: Browser) -> Iterator[None]:
    """No page may run what a user sent."""
    yield
    assert browser.title != "owned"


def test_the_versions_page_says_why_it_replaced_its_parent_on_which_evidence(review: Review, browser: Browser) -> None:
    version = review.promoted
    text = shown(
        browser,
        f"{review.mlflow}/#/models/evermoe/versions/{version.version}",
        f"Version {version.version} replaced version {version.parent} on 2025-",
        *("decided by: flow rollout", "better: e-value", "lift: +", "mean reward: version"),
        name="version",
    )
    assert f"evermoe reproduce {version.version}" in text
    assert "the rollout's run" in text


def test_the_versions_page_says_which_data_made_it_and_what_got_worse(review: Review, browser: Browser) -> None:
    version = review.promoted
    snapshot = review.parts.snapshots.get(version.month)
    text = shown(
        browser,
        f"{review.mlflow}/#/models/evermoe/versions/{version.version}",
        *(version.month, snapshot.md5, review.parts.snapshots.get("base").md5, "What got worse", "Which data made it"),
        name="version",
    )
    worse = text.partition("What got worse")[2].partition("What got better")[0]
    assert "held-out example" in worse
    assert "that its parent had right" in worse


def test_the_runs_card_answers_all_three_in_place(review: Review, browser: Browser) -> None:
    version = review.promoted
    shown(
        browser,
        review.run(version.run_id, "/artifacts/card.html"),
        f"Version {version.version} replaced version {version.parent} on 2025-",
        *("Every decision", "open", "promote", "What got worse", "Held-out examples that broke", "Month by month"),
        *("Experts that moved", "of the routed load", review.parts.snapshots.get(version.month).md5),
        name="card",
        framed=True,
    )


def test_the_run_of_the_training_names_its_datasets_and_what_it_did_to_the_machine(
    review: Review, browser: Browser
) -> None:
    month = review.promoted.month
    train = review.parts.tracking.find(month, "train", month)
    inputs = {one.dataset.name for one in review.parts.tracking.client.get_run(train).inputs.dataset_inputs}
    assert {f"snapshot-{month}", f"snapshot-{month}-held-out", "snapshot-base", "snapshot-base-held-out"} <= inputs
    shown(browser, review.run(train), "Datasets", "snapshot-", "system/cpu_utilization_percentage", name="training")
    shown(browser, review.run(train, "/system-metrics"), "cpu_utilization_percentage", name="system-metrics")


def test_versions_stand_side_by_side_with_their_figures(review: Review, browser: Browser) -> None:
    versions = review.parts.versions.all()
    assert len(versions) > 3
    shown(
        browser,
        f"{review.mlflow}/#/experiments/{review.parts.tracking.experiment}/models",
        *(f"evermoe-{version.month}" for version in versions),
        name="side-by-side",
    )
    for version in versions:  # the page's columns of figures are to the right of what a window shows
        model = review.parts.tracking.client.get_logged_model(version.model_id)
        figures = {metric.key for metric in model.metrics}
        assert {"new_month.accuracy", "past.worst", "past.average", "calibration_error", "labels"} <= figures
        assert ({"taught_share", "temperature"} <= figures) == (version.parent is not None)
        assert "epochs" in model.params
