"""A controller to be paused, raced and killed.

Takes the lease whenever it is free, sits on it for a random while (often longer than it lasts), and then sets a share of its
own. Says `try TOKEN SHARE` before it writes, and `done TOKEN SHARE` or `fenced TOKEN` after.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta

from registry.book.lease import Fenced, Lease
from registry.book.ledger import Ledger
from registry.rollout import Decision
from tests.drills.killed import Say

LASTS = timedelta(milliseconds=60)


def steer_for_ever(say: Say, url: str, name: str, seed: int) -> None:
    """One decision after another, whenever the lease can be had."""
    draw = random.Random(seed)
    with Ledger(url) as ledger:
        while True:
            with ledger.lease(name, lambda: datetime.now(UTC), LASTS) as held:
                if held is not None:
                    _steer(say, ledger, held, name, draw)
            time.sleep(draw.uniform(0, 0.005))


def _steer(say: Say, ledger: Ledger, held: Lease, name: str, draw: random.Random) -> None:
    time.sleep(draw.choice([0.0, 0.0, 0.01, 0.15]))
    share = round(draw.uniform(0.01, 0.99), 6)
    say(f"try {held.token} {share}")
    try:
        ledger.apply("june", Decision("share", share, str(held.token)), name, datetime.now(UTC), held=held)
        say(f"done {held.token} {share}")
    except Fenced:
        say(f"fenced {held.token}")
