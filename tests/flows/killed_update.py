"""`evermoe update`, killed -9 at one exact point: MODULE:NAME before|after, and then the words of the command line.

python -m tests.flows.killed_update registry.book.ledger:Ledger.open after update 2025-06
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import reduce, wraps
from typing import Any

from evermoe.quiet import silence

silence()

from commands.main import run  # noqa: E402  # telemetry is off first

target, when, *words = sys.argv[1:]
module, _, path = target.partition(":")
*owners, name = path.split(".")
owner = reduce(getattr, owners, importlib.import_module(module))
original = getattr(owner, name)


@wraps(original)
def deadly(*args: Any, **kwargs: Any) -> Any:
    if when == "after":
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


setattr(owner, name, deadly)
sys.exit(run(words))
