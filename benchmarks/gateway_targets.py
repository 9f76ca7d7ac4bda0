"""The servers that `benchmarks/gateway.py` compares, each a process of its own on a port of its own.

- `echo`: the least that answers over HTTP, a bare ASGI application on the gateway's own uvicorn. Others are measured against it.
- `gateway`: ours as `evermoe serve` puts it together, event log, rollout at 50% and all, its engine (which runs in the
  gateway's process) with a model that answers at once in place of a trained one.
- `litellm`: LiteLLM's proxy from an environment of its own, with `echo` behind it. It keeps no row of a request.

Knows how to start and stop them. Does not know what is measured.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evermoe.settings import ROOT

WORDS = "network, because a VLAN is one"
STARTING_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A running server: its name in the table, its port, and the model to ask for."""

    name: str
    port: int
    model: str
    process: int

    def processor_seconds(self) -> float:
        """What its process has used of the processor so far; a database server's work is not in it."""
        used = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(int(ticks) for ticks in used) / os.sysconf("SC_CLK_TCK")

    @property
    def request(self) -> bytes:
        """A chat completion, as bytes on the wire."""
        asked = {"role": "user", "content": "Which team owns this note: fix the vlan option of the switch module"}
        body = json.dumps({"model": self.model, "messages": [asked], "max_tokens": 16, "user": "ann"}).encode()
        lines = ("POST /v1/chat/completions HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json")
        head = "\r\n".join((*lines, "Authorization: Bearer none", f"Content-Length: {len(body)}", "", ""))
        return head.encode() + body


@contextmanager
def running(name: str, port: int, model: str, folder: Path, command: Sequence[str]) -> Iterator[Target]:
    """Start `command`, wait until it answers on `port`, and end it afterwards."""
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    target = Target(name, port, model, process.pid)
    try:
        deadline = time.monotonic() + STARTING_SECONDS
        while not _answers(target):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield target
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def echo_command(port: int) -> list[str]:
    """How the bare server is started."""
    return [sys.executable, "-c", f"from benchmarks.gateway_targets import serve_echo; serve_echo({port})"]


def gateway_command(port: int, url: str, folder: Path) -> list[str]:
    """How the gateway on the database `url` is started; `folder` is for its MLflow. It carries torch, as
    `evermoe serve` does."""
    call = f"serve_gateway({port}, {url!r}, {str(folder)!r})"
    return [sys.executable, "-c", f"import model; from benchmarks.gateway_targets import serve_gateway; {call}"]


def litellm_command(python: Path, port: int, echo: int, folder: Path) -> list[str]:
    """How LiteLLM's proxy of the environment of `python` is started in front of the bare server."""
    through = {"model": "openai/echo", "api_base": f"http://127.0.0.1:{echo}/v1", "api_key": "none"}
    settings = {"model_list": [{"model_name": "echo", "litellm_params": through}]}
    (folder / "litellm.yaml").write_text(json.dumps(settings), encoding="utf-8")
    proxy = python.parent / "litellm"
    return [str(proxy), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]


def serve_echo(port: int) -> None:
    """Answer every POST with the same completion."""
    import uvicorn

    choice = {"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20}
    shape = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "echo", "choices": [choice]}
    body = json.dumps({**shape, "usage": usage}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(echo, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")


def serve_gateway(port: int, url: str, folder: str) -> None:
    """The gateway, in the middle of a rollout between two models that answer at once."""
    from monitoring.events import EventLog
    from registry.actions.controls import Controls
    from registry.book.ledger import Ledger
    from registry.rollout import Policy, new_rollout
    from registry.tracker.runs import Tracking
    from registry.tracker.versions import Versions
    from serving.app import create_app
    from serving.engine import Engine
    from serving.rollouts import Rollouts
    from serving.router import Router
    from serving.server import listen, run

    logging.basicConfig(level=logging.WARNING)
    listener = listen("127.0.0.1", port)
    mlflow = f"sqlite:///{folder}/mlflow.db"
    versions, tracking = Versions(mlflow, artifacts=Path(folder)), Tracking(mlflow, Path(folder))
    with Ledger(url) as ledger, EventLog(url) as events:
        opened = new_rollout("bench", "2025-06", "1", "2", "salt", Policy(shares=(0.5,)), datetime.now(UTC))
        ledger.open(opened, by="benchmark")
        engine = Engine(lambda version: Echo())
        rollouts = Rollouts(Controls(ledger, versions, tracking), events, policy=Policy())
        app = create_app(
            engine=engine, router=Router(rollouts.deployment, engine), events=events, rollouts=rollouts, limits=None
        )
        run(app, listener, lambda: None)


@dataclass(frozen=True)
class Told:
    """What an answer tells of itself."""

    prompt_tokens: int = 12
    output_tokens: int = 8
    finish: str = "stop"
    cut: bool = False
    label: str = "network"
    scores: Any = None
    experts: tuple[int, ...] = ()
    tokens: int = 12


class Echo:
    """A model that has its answer ready."""

    labels = ("network", "database")

    def classify(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Sequence[Told]:
        return [Told(scores={"network": 0.75, "database": 0.25}, experts=(7, 101, 3)) for _ in texts]

    def generate(self, prompt: str, **how: Any) -> Generator[str, None, Told]:
        yield WORDS
        return Told()


def _answers(target: Target) -> bool:
    call = urllib.request.Request(f"http://127.0.0.1:{target.port}/v1/chat/completions", method="POST")
    call.add_header("Content-Type", "application/json")
    call.add_header("Authorization", "Bearer none")
    try:
        with urllib.request.urlopen(call, target.request.partition(b"\r\n\r\n")[2], timeout=20) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
