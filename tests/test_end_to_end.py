"""The product as a new user meets it: a demo on records of their own, then `evermoe up` on what it made, then the README.

Slow: each demo starts real servers and lives real months, with a small model. The pages are opened in a real Chromium; with
EVERMOE_SCREENSHOTS=DIR its screenshots are kept there to be looked at.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml

from commands.processes import free_ports
from evermoe.settings import ROOT
from tests.browser import Browser, shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EVERMOE = [sys.executable, "-m", "commands.main"]

TOPICS = {
    "billing": ["invoice", "refund", "card", "receipt", "discount", "tax"],
    "delivery": ["parcel", "courier", "address", "tracking", "pickup", "delay"],
    "account": ["password", "login", "email", "profile", "device", "session"],
    "robots": ["arm", "gripper", "sensor", "joint", "battery", "firmware"],  # nobody asks about them before May
}
WAYS = [
    "where is my {}",
    "the {} is wrong",
    "please change the {}",
    "no {} came",
    "{} does not work",
    "how to add a {}",
]
DAYS = ["today", "again", "since monday", "for a week", "after the update", "on my phone", "at work", "as promised"]


def tickets() -> Iterator[dict[str, str]]:
    """A help desk's tickets from January to June 2025; from May on most are about robots."""
    made = {topic: itertools.cycle(combinations(nouns)) for topic, nouns in TOPICS.items()}
    old = itertools.cycle(["billing", "delivery", "account"])
    for day in range(180):
        at = datetime(2025, 1, 1, 8, tzinfo=UTC) + timedelta(days=day)
        for hour in range(6):
            topic = "robots" if at.month >= 5 and hour < 4 else next(old)
            yield {
                "timestamp": (at + timedelta(hours=hour)).isoformat(),
                "message": next(made[topic]),
                "category": topic,
                "customer": f"customer-{day * 6 + hour}",
            }


def combinations(nouns: list[str]) -> list[str]:
    """Every way to say each of them, in no order: else a month would have ways of its own, and those would tell the topic."""
    made = [f"{way.format(noun)} {day}" for way, day, noun in itertools.product(WAYS, DAYS, nouns)]
    random.Random(nouns[0]).shuffle(made)
    return made


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment, but for a model small enough to train in seconds."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["model"] |= {"hidden_size": 32, "experts": 16, "experts_per_token": 4, "expert_size": 16, "vocab_size": 600}
    params["model"] |= {"shared_expert_size": 32, "heads": 2, "max_length": 32}
    params["model"] |= {"fewest_per_token": 2, "most_per_token": 8, "experts_at_first": 8}
    params["base"] |= {"epochs": 8, "min_steps": 0, "batch_size": 32, "learning_rate": 1.0e-2}
    params["update"] |= {"epochs": 6, "distil_epochs": 6, "learning_rate": 5.0e-3, "distil_learning_rate": 5.0e-3}
    params["gates"] |= {"latency_ratio": 20.0}
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVERMOE_", "PREFECT_"))}
    return {**clean, "EVERMOE_PARAMS": str(file), "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"}


def demo(env: dict[str, str], home: Path, *options: str) -> dict[str, Any]:
    """Run a demo; what it prints on stdout is one JSON object and nothing else."""
    command = [*EVERMOE, "demo", "--home", str(home), "--json", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write_csv(file: Path) -> Path:
    rows = list(tickets())
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_jsonl(file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in tickets()))
    return file


def write_parquet(file: Path) -> Path:
    pd.DataFrame(tickets()).to_parquet(file)
    return file


@pytest.fixture(scope="module")
def lived(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A home in which two months of tickets were lived, and what the demo said of them."""
    folder = tmp_path_factory.mktemp("lived")
    file = write_csv(folder / "tickets.csv")
    return folder / "home", demo(
        env, folder / "home", "--stream", "files", "--path", str(file), "--start", "2025-05", "--months", "2"
    )


def test_a_demo_on_a_users_own_csv_closes_the_loop(lived: tuple[Path, dict[str, Any]]) -> None:
    home, told = lived
    may, june = told["months"]
    assert (may["month"], june["month"]) == ("2025-05", "2025-06")
    assert (may["drift"], may["shares"][-1]) == (True, 0.0)
    assert (june["decision"], told["champion"]["version"]) == ("promote", "2"), june
    assert june["accuracy"]["platform"] > june["accuracy"]["frozen"] + 0.2
    assert set(june["accuracy"]) == {"frozen", "platform", "baseline"}
    assert (home / "demo.png").stat().st_size > 10_000
    assert json.loads((home / "demo.json").read_text()) == told


@pytest.mark.parametrize(("name", "write"), [("tickets.jsonl", write_jsonl), ("tickets.parquet", write_parquet)])
def test_a_demo_takes_jsonl_and_parquet(
    env: dict[str, str], tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    path = str(write(tmp_path / name))
    told = demo(env, tmp_path / "home", "--stream", "files", "--path", path, "--months", "1")
    assert [month["month"] for month in told["months"]] == ["2025-06"]


def test_a_demo_takes_any_git_repository(env: dict[str, str], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for number, row in enumerate(itertools.islice(tickets(), 0, 1080, 4)):
        file = repository / row["category"] / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(row["message"])
        subprocess.run([*git, "add", "-A"], check=True)
        when = {"GIT_AUTHOR_DATE": row["timestamp"], "GIT_COMMITTER_DATE": row["timestamp"]}
        subprocess.run([*git, "commit", "--quiet", "-m", row["message"]], check=True, env={**os.environ, **when})
    told = demo(env, tmp_path / "home", "--stream", "git", "--path", str(repository), "--months", "1")
    assert [month["month"] for month in told["months"]] == ["2025-06"]


@dataclass(frozen=True)
class Pages:
    """Where `evermoe up` serves what, and the environment it was started with."""

    console: str
    openai: str
    mlflow: str
    prefect: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def pages(env: dict[str, str], lived: tuple[Path, dict[str, Any]]) -> Iterator[Pages]:
    home, _ = lived
    gateway, mlflow, prefect = (str(port) for port in free_ports(3))
    ports = {"EVERMOE_GATEWAY_PORT": gateway, "EVERMOE_MLFLOW_PORT": mlflow, "EVERMOE_PREFECT_PORT": prefect}
    own = {**env, **ports, "EVERMOE_HOME": str(home)}
    command = [*EVERMOE, "up", "--json", "--paused"]
    up = subprocess.Popen(command, env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        told = json.loads(up.stdout.readline() or "{}")
        assert told, up.communicate()[1]
        yield Pages(told["console"], told["openai"], told["mlflow"], told["prefect"], own)
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)


def mlflow_runs(pages: Pages, condition: str) -> list[dict[str, Any]]:
    """The runs of the experiment `evermoe`, asked over MLflow's own HTTP API."""
    api = f"{pages.mlflow.rstrip('/')}/api/2.0/mlflow"
    experiment = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "evermoe"}).json()
    found = httpx.post(
        f"{api}/runs/search",
        json={"experiment_ids": [experiment["experiment"]["experiment_id"]], "filter": condition},
        timeout=30,
    ).json()
    runs: list[dict[str, Any]] = found["runs"]
    return runs


def test_mlflow_shows_a_months_tree_from_drift_to_the_decision(pages: Pages, browser: Browser) -> None:
    (month,) = mlflow_runs(pages, "tags.`evermoe.key` = 'month:2025-05'")
    experiment = month["info"]["experiment_id"]
    steps = ("drift", "snapshot", "train", "distil", "gates", "rollout")
    shown(
        browser,
        f"{pages.mlflow}/#/experiments/{experiment}/runs",
        "2025-05",
        *steps,
        "snapshot-2025-05",
        click="button[data-component-id*='runnamecellrenderer']",
        name="mlflow-month",
    )


def test_mlflow_shows_the_drift_report_the_curves_and_the_gates(pages: Pages, browser: Browser) -> None:
    (month,) = mlflow_runs(pages, "tags.`evermoe.key` = 'month:2025-05'")
    parent, experiment = month["info"]["run_id"], month["info"]["experiment_id"]
    below = mlflow_runs(pages, f"tags.`mlflow.parentRunId` = '{parent}'")
    by_kind = {
        next(tag["value"] for tag in run["data"]["tags"] if tag["key"] == "evermoe.kind"): run["info"]["run_id"]
        for run in below
    }
    run = f"{pages.mlflow}/#/experiments/{experiment}/runs"
    shown(browser, f"{run}/{by_kind['drift']}", "evermoe.drifted", "score.label", name="mlflow-drift")
    shown(browser, f"{run}/{by_kind['drift']}/artifacts/drift.html", "drift.html", name="mlflow-drift-report")
    shown(browser, f"{run}/{by_kind['train']}/model-metrics", "loss", "learning_rate", name="mlflow-curves")
    shown(browser, f"{run}/{by_kind['gates']}", "challenger.new.accuracy", "may lose", name="mlflow-gates")


def test_mlflow_shows_versions_with_aliases_tags_and_what_changed(pages: Pages, browser: Browser) -> None:
    shown(browser, f"{pages.mlflow}/#/models/evermoe", "Version 1", "Version 2", "champion", name="mlflow-versions")
    shown(
        browser,
        f"{pages.mlflow}/#/models/evermoe/versions/2",
        *("New labels: robots", "new month: gains", "evermoe.dvc", "evermoe.learned", "champion"),
        name="mlflow-version",
    )


def test_prefect_shows_three_deployments_and_the_runs(pages: Pages, browser: Browser) -> None:
    shown(
        browser,
        f"{pages.prefect}/deployments",
        *("drift", "monthly", "rollout", "At 05:00 AM every day", "Every 10 minutes"),
        name="prefect-deployments",
    )
    runs = httpx.post(f"{pages.prefect}/api/flow_runs/filter", json={}, timeout=30).json()
    of_the_demo = [run for run in runs if run["state_type"] != "SCHEDULED"]
    assert len(of_the_demo) > 5
    assert {run["state_name"] for run in of_the_demo} == {"Completed"}
    shown(browser, f"{pages.prefect}/runs", "update 2025-05", "window before 2025-06-01 00:00", name="prefect-runs")


def test_the_console_shows_who_serves_and_every_decision(pages: Pages, browser: Browser) -> None:
    shown(browser, pages.console, "champion", "History", "promoted", "flow rollout", name="console")


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_readmes_openai_example_runs_as_it_stands(pages: Pages) -> None:
    (code,) = blocks("python")
    code = code.replace("http://127.0.0.1:8000/v1", pages.openai)
    done = subprocess.run([sys.executable, "-c", code], env=pages.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['evermoe'")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_readmes_curl_lines_run_as_they_stand(pages: Pages) -> None:
    gateway = pages.console.rstrip("/")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    said: list[dict[str, Any]] = []
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", gateway)
        command = command.replace("clsf-…", said[0]["id"]) if said else command
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
        said.append(json.loads(done.stdout))
    assert "label" in said[0], said
    assert said[1]["counted"] is True, said


def test_every_command_of_the_readme_is_understood(pages: Pages) -> None:
    by_hand = next(block for block in blocks("sh") if "evermoe drift" in block)
    for line in by_hand.splitlines():
        command = line.split("#")[0].strip()
        done = subprocess.run(["bash", "-c", command], env=pages.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert done.stdout.strip(), command
