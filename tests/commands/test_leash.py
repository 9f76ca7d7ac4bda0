"""Real processes: whatever they start and however they misbehave, nothing is left when the holder lets go or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.processes import LEASH

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# a program with a child in its group, a child in a session of its own, and an orphan in another; it writes all pids
FAMILY = """
import os, subprocess, sys, time
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
nap = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(nap)
loner = subprocess.Popen(nap, start_new_session=True)
leave_an_orphan = f"import subprocess; print(subprocess.Popen({nap!r}, start_new_session=True, **{quiet!r}).pid)"
middle = subprocess.run([sys.executable, "-c", leave_an_orphan], capture_output=True, text=True)
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{os.getpid()} {child.pid} {loner.pid} {middle.stdout}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(300)
"""
STUBBORN = "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n" + FAMILY
HOLDER = """
import os, subprocess, sys, time
reader, writer = os.pipe()
subprocess.Popen(sys.argv[1:], stdin=reader, start_new_session=True)
os.close(reader)
time.sleep(300)
"""


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between open and read
        return False


def wait(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def family(file: Path) -> list[int]:
    assert wait(file.exists), "the program did not start"
    return [int(pid) for pid in file.read_text().split()]


def leash(code: str, file: Path, grace: str = "5") -> list[str]:
    return [sys.executable, "-I", str(LEASH), grace, sys.executable, "-c", code, str(file)]


@pytest.mark.parametrize("code", [FAMILY, STUBBORN], ids=["polite", "ignores signals"])
def test_letting_go_ends_the_program_its_children_and_its_orphans(tmp_path: Path, code: str) -> None:
    held = subprocess.Popen(leash(code, tmp_path / "pids", grace="0.5"), stdin=subprocess.PIPE)
    pids = family(tmp_path / "pids")
    assert len(pids) == 4
    assert all(map(alive, pids))
    assert held.stdin is not None
    held.stdin.close()
    held.wait(15)
    assert not [pid for pid in pids if alive(pid)]


def test_sigterm_to_the_leash_ends_the_whole_family(tmp_path: Path) -> None:
    held = subprocess.Popen(leash(FAMILY, tmp_path / "pids"), stdin=subprocess.PIPE)
    pids = family(tmp_path / "pids")
    held.terminate()
    assert held.wait(15) == 128 + signal.SIGTERM
    assert not [pid for pid in pids if alive(pid)]


def test_kill_minus_9_of_the_holder_leaves_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, *leash(FAMILY, tmp_path / "pids")])
    pids = family(tmp_path / "pids")
    holder.kill()
    holder.wait()
    assert wait(lambda: not any(map(alive, pids)))


def test_kill_minus_9_of_the_leash_itself_ends_the_program(tmp_path: Path) -> None:
    held = subprocess.Popen(leash(FAMILY, tmp_path / "pids"), stdin=subprocess.PIPE)
    program, *others = family(tmp_path / "pids")
    held.kill()
    held.wait()
    assert wait(lambda: not alive(program))
    for pid in others:  # what no one holds any more is ours to end
        os.kill(pid, signal.SIGKILL)


def test_the_exit_status_of_the_program_is_passed_on() -> None:
    for code, status in {"raise SystemExit(7)": 7, "import os; os.kill(os.getpid(), 9)": 137, "pass": 0}.items():
        argv = [sys.executable, "-I", str(LEASH), "5", sys.executable, "-c", code]
        assert subprocess.Popen(argv, stdin=subprocess.PIPE).wait(15) == status
