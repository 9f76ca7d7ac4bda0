"""One holder at a time, and none after its process has ended, however it ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evermoe.errors import Conflict
from evermoe.locks import exclusive, taken

HOLD = """
import sys, time
from pathlib import Path
from evermoe.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_that_another_process_holds_is_refused_until_that_one_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(Conflict, match="somebody is there"), exclusive(file, "somebody is there"):
        pass
    assert taken(file)
    other.kill()
    other.communicate()
    assert not taken(file)
    with exclusive(file, "somebody is there"), pytest.raises(Conflict), exclusive(file, "somebody is there"):
        pass
