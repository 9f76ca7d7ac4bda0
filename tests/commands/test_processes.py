"""A group of programs: ready, dead, in the way of another, stopped."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from commands.processes import Process, ProcessDied, Processes, answers, check_port, free_ports, port_is_free
from evermoe.errors import PortInUse

WEB = """
import http.server, sys, time
time.sleep(float(sys.argv[2]))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def web(name: str, port: int, delay: float = 0.0) -> Process:
    return Process(
        name=name,
        argv=[sys.executable, "-c", WEB, str(port), str(delay)],
        ready=f"http://127.0.0.1:{port}/",
        port=port,
        port_variable="EVERMOE_GATEWAY_PORT",
    )


def test_each_program_is_announced_when_it_answers_and_gone_after_the_block(tmp_path: Path) -> None:
    first, second = free_ports(2)
    ready: list[str] = []
    with Processes(tmp_path / "logs") as processes:
        processes.start(web("slow", first, delay=0.8), web("quick", second))
        processes.wait_until_ready(30, progress=lambda one: ready.append(one.process.name))
        assert ready == ["quick", "slow"]
        assert answers(f"http://127.0.0.1:{first}/")
    assert port_is_free("127.0.0.1", first)
    assert port_is_free("127.0.0.1", second)


def test_a_program_without_a_port_is_ready_when_it_says_so_now_and_not_in_an_old_log(tmp_path: Path) -> None:
    (tmp_path / "talker.log").write_text("serving 3 deployments\n")
    code = "import time; time.sleep(0.5); print('serving 3 deployments', flush=True); time.sleep(60)"
    with Processes(tmp_path) as processes:
        processes.start(Process("talker", [sys.executable, "-c", code], ready_line="serving "))
        processes.wait_until_ready(30)
        assert (processes.running[0].ready_seconds or 0) >= 0.5


def test_a_program_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print('reading the model'); print('no such file: weights', file=sys.stderr); sys.exit(3)"
    with Processes(tmp_path) as processes:
        processes.start(Process("gateway", [sys.executable, "-c", code], ready="http://127.0.0.1:9/"))
        with pytest.raises(ProcessDied, match=r"gateway ended by itself with status 3[\s\S]*no such file: weights"):
            processes.wait_until_ready(30)


def test_a_program_that_never_answers_is_named(tmp_path: Path) -> None:
    with Processes(tmp_path, grace_seconds=1) as processes:
        processes.start(
            Process("mute", [sys.executable, "-c", "import time; time.sleep(60)"], ready="http://127.0.0.1:9/")
        )
        with pytest.raises(ProcessDied, match="mute did not answer within 1 s"):
            processes.wait_until_ready(1)


def test_a_port_in_use_is_named_in_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    (free,) = free_ports(1)
    with socket.socket() as other, Processes(tmp_path) as processes:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PortInUse) as told:
            processes.start(web("mlflow", free), web("gateway", taken))
        assert str(told.value).count("\n") == 0
        assert all(word in str(told.value) for word in (str(taken), "gateway", "EVERMOE_GATEWAY_PORT"))
        assert processes.running == []
    check_port(web("gateway", free))
