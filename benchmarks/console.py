"""How soon the console is seen under a long log: first paint in a real Chromium, on loopback, as the Performance API tells it.

    python -m benchmarks.console [--requests N] [--rated N] [--loads N] [--json]

A home with a champion, a challenger and an open rollout; its event log holds 100,000 requests of 40,000 users and 20,000
feedbacks. `evermoe serve` on SQLite, a process of its own. The first load comes as soon as it is ready, before any figure was
made; the others follow each other, a second apart, so that some meet new figures being made (they are kept for 3 s). Measured
are first contentful paint and the wait for the first byte, both from the start of the navigation. Needs Chromium and Playwright.
Two minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evermoe.errors import NotReady
from evermoe.quiet import silence
from evermoe.settings import ROOT
from model import Example, MoeConfig, Recipe, train_base
from monitoring.database import writing
from monitoring.schema import feedback, open_database, requests
from registry.actions.controls import Controls
from registry.book.ledger import Ledger
from registry.rollout import Policy, new_rollout
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions
from tests.browser import CHROMIUM, Browser, chromium

LOADER = ROOT / "tests" / "registry" / "loader.py"
USERS, EXPERTS, TOP, SHARE = 40_000, 128, 12, 0.25
TIMES = """() => ({paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
                   byte: performance.getEntriesByType('navigation')[0].responseStart,
                   bytes: performance.getEntriesByType('navigation')[0].decodedBodySize})"""


@dataclass(frozen=True)
class Load:
    """One load of the page: milliseconds to the first byte and to first contentful paint, and its bytes."""

    byte: float
    paint: float
    bytes: int


def make_home(home: Path, asked: int, rated: int) -> None:
    """Two versions of a small model, an open rollout between them, and its log."""
    (home / "home.json").write_text('{"format": 1}')
    examples = [
        Example(f"fix the {noun}", label) for label, noun in (("net", "vlan"), ("net", "port"), ("db", "table"))
    ]
    config = MoeConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_size=16,
        max_position_embeddings=64,
    )
    recipe = Recipe(epochs=1, batch_size=3, learning_rate=1e-2, text_loss_weight=0.3, seed=1)
    folder = train_base(examples, config, max_length=32, recipe=recipe, report=lambda step: None).save(home / "tiny")
    uri, artifacts = f"sqlite:///{home / 'mlflow.db'}", home / "artifacts"
    versions = Versions(uri, artifacts=artifacts)
    for month, parent in (("2025-05", None), ("2025-06", "1")):
        versions.register(folder, month=month, parent=parent, run_id=None, loader=LOADER, description=month)
    versions.set_alias("champion", "1")
    url, at = f"sqlite:///{home / 'events.db'}", datetime.now(UTC) - timedelta(seconds=8 * asked)
    with Ledger(url) as ledger:
        rollout = new_rollout("console", "2025-06", "1", "2", "salt", Policy(shares=(SHARE, 0.5)), at)
        Controls(ledger, versions, Tracking(uri, artifacts)).open(rollout, by="benchmark")
    fill(url, rollout.id, at, asked, rated)


def fill(url: str, rollout: str, at: datetime, asked: int, rated: int) -> None:
    """The log, the same with every run but for its times."""
    generator = random.Random(1)
    rows = [request(generator, number, rollout, at + timedelta(seconds=8 * number)) for number in range(asked)]
    told = [judgement(generator, rows[number]) for number in sorted(generator.sample(range(asked), rated))]
    engine = open_database(url)
    with writing(engine) as connection:
        for table, content in ((requests, rows), (feedback, told)):
            for start in range(0, len(content), 5000):
                connection.execute(table.insert(), content[start : start + 5000])
    engine.dispose()


def request(generator: random.Random, number: int, rollout: str, at: datetime) -> dict[str, Any]:
    """One answered request; in 3 of 10 both arms answer alike."""
    challenger, label = generator.random() < SHARE, generator.choice(["net", "db"])
    return {
        "id": f"clsf-{number:06d}",
        "at": at,
        "kind": "classify",
        "unit": f"user-{generator.randrange(USERS)}",
        "unit_given": True,
        "input": "fix the vlan option of the switch module",
        "output": label,
        "scores": {label: 0.7},
        "rollout": rollout,
        "arm": "challenger" if challenger else "champion",
        "version": "2" if challenger else "1",
        "propensity": SHARE if challenger else 1 - SHARE,
        "latency_ms": generator.lognormvariate(2.5, 0.4),
        "prompt_tokens": 9,
        "output_tokens": 0,
        "experts": tuple(generator.sample(range(EXPERTS), TOP)),
        "error": "RuntimeError: none" if generator.random() < 0.002 else None,
        "shadow": label if generator.random() < 0.3 else "other",
        "api_key": "",
    }


def judgement(generator: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    """One feedback, two hours later on average; the arms are alike."""
    delay = generator.expovariate(1 / 7200)
    return {
        "key": row["id"],
        "response_id": row["id"],
        "at": row["at"] + timedelta(seconds=delay),
        "score": None,
        "label": None,
        "counted": True,
        "reward": float(generator.random() < 0.6),
        "delay_seconds": delay,
        "api_key": "",
    }


def serve(home: Path, port: int) -> subprocess.Popen[bytes]:
    """The gateway, once it says that it serves."""
    command = [sys.executable, "-m", "commands.main", "serve", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"gateway on" in line:
            return process
    raise NotReady("the gateway ended before it served")


def load(browser: Browser, address: str) -> Load:
    """Load the page as a person without a cache does."""

    def look(page: Any) -> Load:
        page.goto(address, wait_until="load")
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
        return Load(**page.evaluate(TIMES))

    return browser.play(look, viewport={"width": 1280, "height": 900})


def figures(loads: list[Load]) -> dict[str, Any]:
    """The first load, and the median and the worst of the others."""
    first, others = loads[0], loads[1:]
    return {
        "first": asdict(first),
        "paint_ms": {
            "median": statistics.median(one.paint for one in others),
            "worst": max(one.paint for one in others),
        },
        "byte_ms": {"median": statistics.median(one.byte for one in others), "worst": max(one.byte for one in others)},
        "loads": len(others),
    }


def main() -> None:
    """Make the home, serve it, look at it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rated", type=int, default=20_000)
    parser.add_argument("--loads", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not CHROMIUM:
        raise NotReady("Chromium is not installed (Debian: chromium)")
    silence()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        make_home(Path(folder), options.requests, options.rated)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        with chromium() as browser:
            browser.play(lambda page: page.goto("about:blank"))  # its own start is not the page's
            gateway = serve(Path(folder), port)
            try:
                loads = []
                for _ in range(options.loads + 1):
                    loads.append(load(browser, f"http://127.0.0.1:{port}/"))
                    time.sleep(1)
            finally:
                gateway.terminate()
                gateway.wait(60)
    found = figures(loads) | {"requests": options.requests, "rated": options.rated, "load": os.getloadavg()[0]}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.requests:,} requests, {options.rated:,} feedbacks; {found['first']['bytes']:,} bytes a page")
    print(f"{'':14}{'first byte':>14}{'first paint':>14}")
    print(f"{'first load':14}{found['first']['byte']:>11.0f} ms{found['first']['paint']:>11.0f} ms")
    for name in ("median", "worst"):
        print(f"{f'{name} of {options.loads}':14}{found['byte_ms'][name]:>11.0f} ms{found['paint_ms'][name]:>11.0f} ms")


if __name__ == "__main__":
    main()
