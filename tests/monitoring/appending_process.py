"""A gateway's worth of appending, to be killed: `python appending_process.py URL PREFIX`.

Writes `? ID` to stdout before it appends the request ID and feedback on it, and `! ID` once both are acknowledged.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading

from rows_for_tests import a_feedback, a_request

from monitoring.events import EventLog


def say(line: str) -> None:
    """One short write, so that the lines of several threads do not mix and none waits in a buffer."""
    os.write(1, f"{line}\n".encode())


def append_for_ever(log: EventLog, prefix: str) -> None:
    """One client after another."""
    for number in itertools.count():
        identifier = f"{prefix}-{number}"
        say(f"? {identifier}")
        stored = log.append(a_request(identifier))
        receipt = log.append(a_feedback(f"k-{identifier}", identifier))
        stored.result()
        assert receipt.result().counted
        say(f"! {identifier}")


if __name__ == "__main__":
    log = EventLog(sys.argv[1], batch_limit=16)
    for thread in range(8):
        threading.Thread(target=append_for_ever, args=(log, f"{sys.argv[2]}-{thread}")).start()
