"""A gateway's worth of appending, to be killed: says `? ID` before it appends the request ID and feedback on it, and `! ID`
once both are acknowledged."""

from __future__ import annotations

import itertools
import threading

from monitoring.events import EventLog
from tests.drills.killed import Say
from tests.monitoring.rows_for_tests import a_feedback, a_request


def append_for_ever(say: Say, url: str, name: str) -> None:
    """Eight clients at once, one request after another."""

    def client(prefix: str) -> None:
        for number in itertools.count():
            identifier = f"{prefix}-{number}"
            say(f"? {identifier}")
            stored = log.append(a_request(identifier))
            receipt = log.append(a_feedback(f"k-{identifier}", identifier))
            stored.result()
            assert receipt.result().counted
            say(f"! {identifier}")

    log = EventLog(url, batch_limit=16)
    threads = [threading.Thread(target=client, args=(f"{name}-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
