"""The last gate: a registered version, loaded and asked in the real server before it meets a user.

Starts `evermoe serve` as a program, on a port of its own, and knows it by its HTTP API alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from evermoe.settings import ROOT
from flows.runtime.parts import Parts
from flows.snapshots.learned import learned_rows
from model import Gate, from_pretrained
from registry.tracker.versions import Version

LEASH = ROOT / "commands" / "leash.py"
QUESTIONS = 5
READY_SECONDS = 600.0
ADDRESS = re.compile(r"gateway on (http://\S+),")


class DidNotServe(Exception):
    """The gateway ended, or said nothing, or did not serve the version; the message says what it said last."""


def rehearse(parts: Parts, version: Version) -> Gate:
    """Ask the gateway what the version's own folder answers to the latest texts it learned from."""
    try:
        texts = [row.text for row in learned_rows(parts.snapshots, version)[-QUESTIONS:]]
        expected = [answer.label for answer in from_pretrained(parts.versions.weights(version.version)).classify(texts)]
        with gateway(version.version) as url:
            answered = [ask(url, text) for text in texts]
    except Exception as error:  # whatever keeps it from answering here would keep it from answering users
        return _gate(0, QUESTIONS, f"does not answer: {' '.join(str(error).split())[:300]}")
    right = sum(one == other for one, other in zip(answered, expected, strict=True))
    return _gate(right, len(texts), f"gives {right} of {len(texts)} answers that its weights give")


@contextmanager
def gateway(version: str) -> Iterator[str]:
    """The address of a gateway that serves only this version, keeps none of its rows, and ends with this process."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "gateway.log"
        # -P: where it starts is not where it is imported from; a folder `model` of the user's is none of ours
        serve = [sys.executable, "-P", "-m", "commands.main", "serve", "--host", "127.0.0.1", "--port", "0"]
        serve += ["--rehearse", version]
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", str(LEASH), "10", *serve],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            yield _address(process, said)
        finally:
            process.communicate()  # lets go of the leash, as our death would


def ask(url: str, text: str) -> str:
    """The label that the gateway answers. Raises `DidNotServe` where it answers with an error."""
    response = httpx.post(f"{url}/v1/classify", json={"input": text}, timeout=60)
    if response.is_error:
        raise DidNotServe(response.text)
    return str(response.json()["label"])


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        lines = said.read_text(encoding="utf-8", errors="replace")
        if found := ADDRESS.search(lines):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise DidNotServe(lines.strip().splitlines()[-1] if lines.strip() else "it said nothing")


def _gate(right: int, asked: int, reason: str) -> Gate:
    return Gate("real server", right == asked, float(right), float(asked), reason)
