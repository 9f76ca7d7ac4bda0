"""A controller to be paused, raced and killed: `python controlling_process.py URL NAME SEED`.

Takes the lease whenever it is free, sits on it for a random while (often longer than it lasts), and then sets a share of its
own. Writes `take TOKEN`, `try TOKEN SHARE`, `done TOKEN SHARE` and `fenced TOKEN` to stdout, each before or after the fact.
"""

from __future__ import annotations

import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from evermoe.errors import Conflict, StorageUnavailable
from registry.lease import Fenced, Lease
from registry.ledger import Ledger
from registry.rollout import Decision

LASTS = timedelta(milliseconds=60)


def say(line: str) -> None:
    """In one write, so that a kill leaves whole lines."""
    os.write(1, f"{line}\n".encode())


def steer(ledger: Ledger, held: Lease, name: str, draw: random.Random) -> None:
    """Decide once, late or in time."""
    say(f"take {held.token}")
    seen = ledger.get("june")
    time.sleep(draw.choice([0.0, 0.0, 0.01, 0.15]))
    share = round(draw.uniform(0.01, 0.99), 6)
    say(f"try {held.token} {share}")
    decision = Decision("share", share, f"token {held.token}")
    try:
        ledger.apply("june", decision, name, datetime.now(UTC), revision=seen.revision, held=held)
        say(f"done {held.token} {share}")
    except Fenced:
        say(f"fenced {held.token}")


if __name__ == "__main__":
    url, name, seed = sys.argv[1:]
    draw = random.Random(int(seed))
    with Ledger(url) as ledger:
        while True:
            try:
                with ledger.lease(name, lambda: datetime.now(UTC), LASTS) as held:
                    if held is not None:
                        steer(ledger, held, name, draw)
            except (Conflict, StorageUnavailable) as error:
                say(f"refused {type(error).__name__}")
            time.sleep(draw.uniform(0, 0.005))
