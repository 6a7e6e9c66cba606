"""One real web server, several real users: it serves as long as anyone of them lives."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3]

# Takes a second to end, as Prefect's does.
SERVER = """\
import signal, sys, time
from http.server import HTTPServer, SimpleHTTPRequestHandler

server = HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(time.sleep(1)))
server.serve_forever()
"""
USER = """\
import os, pathlib, sys
from tasks.system.shared_process import Launch, SharedLeash

folder, port, server = pathlib.Path(sys.argv[1]), *sys.argv[2:]
command = [sys.executable, "-c", server, port]
launch = Launch(command, folder, os.environ, folder / "log", f"http://127.0.0.1:{port}")
leash = SharedLeash(folder / "locks")
print(leash.take(lambda: launch), flush=True)
sys.stdin.read()
leash.release()
"""


@pytest.fixture
def enter(tmp_path):
    """Starts a user that would serve on a port of its own; returns it and the address it got."""
    users = []

    def start() -> tuple[subprocess.Popen, str]:
        user = subprocess.Popen(
            [sys.executable, "-c", USER, str(tmp_path), str(free_port()), SERVER],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        users.append(user)
        return user, user.stdout.readline().strip()

    yield start
    for user in users:
        user.kill()
        user.wait()
        user.stdin.close()
        user.stdout.close()


def leave(user: subprocess.Popen) -> None:
    user.stdin.close()
    assert user.wait(timeout=30) == 0


def test_second_user_shares_the_first_ones_server(enter):
    _, first = enter()
    _, second = enter()
    assert second == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_server_outlives_the_user_that_started_it(enter, number):
    starter, address = enter()
    other, _ = enter()
    until(lambda: answers(address))
    starter.send_signal(number)
    starter.wait(timeout=30)
    time.sleep(1)
    assert answers(address)
    leave(other)
    assert not listens(address)


def test_user_that_leaves_does_not_wait_for_the_others(enter):
    starter, address = enter()
    enter()
    until(lambda: answers(address))
    began = time.monotonic()
    leave(starter)
    assert time.monotonic() - began < 6
    assert answers(address)


def test_killed_last_user_leaves_no_server(enter):
    user, address = enter()
    until(lambda: answers(address))
    user.kill()
    until(lambda: not listens(address))


def test_user_that_comes_after_the_last_one_starts_a_new_server(enter):
    user, first = enter()
    until(lambda: answers(first))
    user.kill()  # and does not wait for the end of its server, as `release` does
    user.wait()
    _, second = enter()
    assert second != first
    until(lambda: answers(second))
    assert not listens(first)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def listens(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


def until(holds, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
