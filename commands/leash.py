"""Keeps one program and everything it starts on a leash: when the holder lets go, none of it is left.

    python leash.py GRACE_SECONDS PROGRAM [ARGUMENT ...]    # the holder keeps the other end of stdin open, and writes nothing

The holder lets go by closing its end, by SIGTERM, or by dying in any way, `kill -9` included: the kernel closes the pipe.
The leash then asks the program to stop (SIGTERM), next what is left of its process group, and after the grace kills the rest.
On Linux the leash adopts what the program orphans, so a child that left the group is found too.

It knows nothing of what it runs, and imports only the standard library: it starts in milliseconds and stays small.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LAST_MOMENTS_SECONDS = 2.0


def main(argv: list[str]) -> int:
    """Run the program until it ends or the holder lets go; returns its exit status as a shell would."""
    grace, command = float(argv[0]), argv[1:]
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    told_to_stop = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # only to be woken
    prctl = process_control()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # if the leash itself is killed
    )
    while not told_to_stop and child.poll() is None:
        readable, _, _ = select.select([0, wake_reader], [], [], 1.0)
        if wake_reader in readable:
            os.read(wake_reader, 4096)
            reap(child)
        if 0 in readable and not os.read(0, 4096):
            told_to_stop = True
    put_down(child, grace)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def put_down(child: subprocess.Popen[bytes], grace: float) -> None:
    """Stop the program politely, then what it started, then without asking."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    wait_until(lambda: child.poll() is not None, deadline)
    signal_all(child, signal.SIGTERM)
    wait_until(
        lambda: child.poll() is not None and not leftovers(child),
        max(deadline, time.monotonic() + LAST_MOMENTS_SECONDS),
    )
    while child.poll() is None or leftovers(child):
        signal_all(child, signal.SIGKILL)
        wait_until(lambda: child.poll() is not None and not leftovers(child), time.monotonic() + 0.5)


def signal_all(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the program's group and to every process that came from it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def leftovers(child: subprocess.Popen[bytes]) -> bool:
    """Whether anything the program started is still there. Collects what has ended."""
    if LINUX:
        reap(child)
        return bool(descendants(os.getpid()))
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def reap(child: subprocess.Popen[bytes]) -> None:
    """Collect adopted orphans that have ended; the program itself is collected by `Popen.poll`."""
    for pid in descendants(os.getpid()):
        if pid != child.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """Every process below `root`, from /proc; none on systems without it."""
    if not LINUX:
        return []
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, frontier = [], [root]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def wait_until(condition: Callable[[], bool], deadline: float) -> None:
    """Poll a condition until it holds or the deadline (monotonic) passes."""
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def process_control() -> Callable[[int, int], object]:
    """Linux's prctl; elsewhere a function that does nothing."""
    if not LINUX:
        return lambda option, value: None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return lambda option, value: libc.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
