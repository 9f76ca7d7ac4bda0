"""Runs several programs as one: starts them, waits until they answer, notices when one dies, stops them all.

It knows nothing of what the programs do (`commands/services.py` says which there are). Each runs on a leash
(`commands/leash.py`), so nothing is left when this process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from evermoe.errors import BadInput, EvermoeError, PortInUse
from evermoe.locks import exclusive

LEASH = Path(__file__).with_name("leash.py")
READY_SECONDS = 180.0
GRACE_SECONDS = 10.0
LOG_LINES_SHOWN = 8


class ProcessDied(EvermoeError):
    """A program we started ended by itself; the message carries the end of its log."""

    exit_code = 4


@dataclass(frozen=True)
class Process:
    """A program to run beside others. It is ready when `ready` answers 200, or when `ready_line` appears in its log."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None
    ready_line: str | None = None
    cwd: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    port_variable: str | None = None


@dataclass
class Running:
    """A started program: its leash, the pipe that holds it, and where it logs."""

    process: Process
    leash: subprocess.Popen[bytes]
    hold: int
    log: Path
    log_start: int
    started: float
    ready_seconds: float | None = None

    def said(self) -> str:
        """What the program has logged since it started."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode("utf-8", errors="replace")

    def let_go(self) -> None:
        """Tell the leash to stop the program; returns at once."""
        if self.hold >= 0:
            os.close(self.hold)
            self.hold = -1


class Processes:
    """A group of programs that stop together. Use as a context manager; leaving it stops them, last started first."""

    def __init__(self, logs: Path, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.logs = logs
        self.grace_seconds = grace_seconds
        self.running: list[Running] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *processes: Process) -> None:
        """Start programs, all or none: every port is checked first. Raises `PortInUse`, `BadInput`."""
        for process in processes:
            check_port(process)
        for process in processes:
            self.running.append(self._start(process))

    def _start(self, process: Process) -> Running:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{process.name}.log"
        reader, writer = os.pipe()  # neither end is inherited by any other child
        try:
            with log.open("ab") as output:
                log_start = output.tell()
                leash = subprocess.Popen(
                    [sys.executable, "-I", str(LEASH), str(self.grace_seconds), *process.argv],
                    stdin=reader,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **process.env},
                    cwd=process.cwd,
                    start_new_session=True,  # Ctrl-C in the terminal reaches only us
                )
        except OSError:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        return Running(process, leash, writer, log, log_start, time.monotonic())

    def wait_until_ready(
        self,
        timeout: float = READY_SECONDS,
        progress: Callable[[Running], None] | None = None,
        poll_seconds: float = 0.1,
    ) -> None:
        """Wait until every program answers; `progress` is told of each as it does. Raises `ProcessDied`, also on a timeout."""
        deadline = time.monotonic() + timeout
        while waiting := [one for one in self.running if one.ready_seconds is None]:
            self.check()
            for one in waiting:
                if is_ready(one):
                    one.ready_seconds = time.monotonic() - one.started
                    if progress:
                        progress(one)
            if time.monotonic() > deadline:
                names = ", ".join(one.process.name for one in self.running if one.ready_seconds is None)
                raise ProcessDied(f"{names} did not answer within {timeout:.0f} s; see {waiting[0].log}")
            time.sleep(poll_seconds)

    def check(self) -> None:
        """Raises `ProcessDied` with the end of its log if a program has ended by itself."""
        for one in self.running:
            status = one.leash.poll()
            if status is not None:
                lines = [line for line in one.said().splitlines() if line.strip()][-LOG_LINES_SHOWN:]
                told = "".join(f"\n  {line}" for line in lines) or "\n  (it said nothing)"
                raise ProcessDied(
                    f"{one.process.name} ended by itself with status {status}; the end of {one.log}:{told}"
                )

    def stop(self) -> None:
        """Stop every program and all it started. What was started last stops first, so a client goes before its server."""
        for one in reversed(self.running):
            one.let_go()
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.leash.wait(self.grace_seconds + 10)
            if one.leash.poll() is None:
                one.leash.kill()  # the program dies with its leash
                one.leash.wait()
        self.running.clear()


IN_USE = "in-use.lock"
"""In a home: held while the platform runs on it."""


@contextlib.contextmanager
def in_use(home: Path) -> Iterator[None]:
    """Keep a home to this process: two that run flows on it, or one that moves it away, would spoil it. Raises `Conflict`."""
    taken = (
        f"{home} is in use by another `evermoe up` or `evermoe demo`; stop that one, or choose another home with --home"
    )
    with exclusive(home / IN_USE, taken):
        yield


def is_ready(one: Running) -> bool:
    """Whether a program says, or shows, that it is ready."""
    if one.process.ready_line is not None and one.process.ready_line not in one.said():
        return False
    return one.process.ready is None or answers(one.process.ready)


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a GET of `url` answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def check_port(process: Process) -> None:
    """Raises `PortInUse` naming the program, the port and the variable that changes it."""
    if process.port is None or port_is_free(process.host, process.port):
        return
    change = f", or set {process.port_variable}" if process.port_variable else ""
    raise PortInUse(
        f"port {process.port} ({process.name}) is in use on {process.host}; stop what listens there{change}"
    )


def port_is_free(host: str, port: int) -> bool:
    """Whether we could listen on `host:port`. Raises `BadInput` if it is not ours to listen on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise BadInput(
                f"cannot listen on {host}:{port}: {error.strerror}; check EVERMOE_HOST and the ports"
            ) from None
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Ports nobody listens on now; all are found before the first is given, so they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        ports = [probe.getsockname()[1] for probe in probes]
    yield from ports
