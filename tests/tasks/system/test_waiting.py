"""Whoever waits for a lock says, once and on stderr, for whom, since when, and what to do."""

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path

import pytest

from tasks.execution.workspace import locked
from tasks.promotion.history import versions
from tasks.registry import transitions
from tasks.registry.move import Move
from tasks.registry.transitions import one_at_a_time
from tasks.system import locks
from tasks.system.shared_process import SharedLeash
from tasks.tracking.client import connect
from tests.tasks.conftest import uri
from tests.tasks.small_registry import make_registry

HERE = Path(__file__).resolve().parents[3]
HOLDER = """\
import sys, fcntl
from pathlib import Path
from tasks.system.locks import held
from tasks.registry.transitions import one_at_a_time
from tasks.system.shared_process import SharedLeash
from tasks.execution.workspace import locked

root = Path(sys.argv[1])
with {hold}:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, empty_database):
    return make_registry(tmp_path / "checkout", empty_database)


@pytest.fixture
def told(monkeypatch):
    """What is said on stderr; short of patience, as tests are."""
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    return io.StringIO()


@contextmanager
def until_told(said, let_go):
    """Runs the body, and lets go of what it waits for once it has said that it waits."""
    enough = threading.Event()

    def watch():
        while not enough.wait(0.02):
            if "waiting for" in said.getvalue():
                enough.wait(0.3)  # time to say it twice
                break
        let_go()

    # One that waits in silence would wait for ever.
    silence = threading.Timer(20.0, enough.set)
    silence.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with redirect_stderr(said):
            yield
    finally:
        enough.set()
        silence.cancel()
        watcher.join()


@contextmanager
def another(hold, root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(hold=hold), str(root)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("hold", "wait", "what"),
    [
        (
            "held(root / 'a.lock', 'a deed')",
            lambda r: locks.held(r / "a.lock", "b", wait=True),
            None,
        ),
        ("one_at_a_time(root, 'a deed')", lambda r: one_at_a_time(r, "a list"), "a list"),
        ("locked(root, what='a deed')", lambda r: locked(r, wait=True, what="a run"), "a run"),
        (
            "held(root / 'door.lock', 'a deed')",
            lambda r: nullcontext(SharedLeash(r).alive()),
            "door.lock",
        ),
    ],
    ids=["a lock", "the registry", "the checkout", "a shared command"],
)
def test_who_waits_for_a_lock_says_for_whom(root, told, hold, wait, what):
    with another(hold, root) as holder, until_told(told, holder.stdin.close), wait(root):
        pass
    said = told.getvalue()
    assert said.startswith(f"waiting for a deed with pid {holder.pid}, started 20")
    assert f"`kill {holder.pid}`" in said
    assert (what or "a.lock") in said
    assert said.count("waiting for") == 1


def test_instar_models_says_that_it_waits_and_prints_nothing_else(root, told, capsys):
    hold = "one_at_a_time(root, 'a registration')"
    with another(hold, root) as holder, until_told(told, holder.stdin.close):
        listed = versions(root, "tiny", uri(root))
    assert len(listed["versions"]) == 3
    assert f"a registration with pid {holder.pid}" in told.getvalue()
    assert capsys.readouterr().out == ""


def test_who_waits_for_dvc_says_so(root, told):
    note = root / ".dvc" / "tmp" / "rwlock"
    note.parent.mkdir(parents=True)
    with another("held(root / 'other.lock', 'nothing')", root) as holder:
        entry = {"pid": holder.pid, "cmd": "dvc repro"}
        note.write_text(json.dumps({"write": {"output": entry}, "read": {}}))
        with until_told(told, holder.stdin.close), locked(root, wait=True, what="a run"):
            pass
    assert f"waiting for a DVC command with pid {holder.pid}, started 20" in told.getvalue()
    assert told.getvalue().count("waiting for") == 1


def test_who_waits_for_another_checkout_says_so(root, told):
    client = connect(uri(root))
    client.create_registered_model("tiny.moving", tags={"checkout": "elsewhere", "by": "Grace"})
    free = lambda: client.delete_registered_model("tiny.moving")  # noqa: E731
    move = Move("tiny", "3", "champion", "Ada", "better")
    with until_told(told, free):
        transitions.carry_out(client, move, root)
    assert "waiting for a move of Grace from another checkout, started 20" in told.getvalue()
    assert "tiny.moving" in told.getvalue()


def test_who_waits_for_a_command_to_end_says_so(tmp_path, told):
    """The keeper alone holds the users' lock while it ends what the last user left."""
    (tmp_path / "users.lock").touch()
    hold = "(f := open(root / 'users.lock'), fcntl.flock(f, fcntl.LOCK_EX))[0]"
    with another(hold, tmp_path) as keeper, until_told(told, keeper.stdin.close):

        def launch():
            raise InterruptedError("its turn has come")

        with pytest.raises(InterruptedError):
            SharedLeash(tmp_path).take(launch)
    assert "its last user has just gone" in told.getvalue()


def test_no_word_of_a_wait_that_is_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 60.0)
    with another("held(root / 'a.lock', 'a deed')", tmp_path) as holder:
        threading.Timer(0.2, holder.stdin.close).start()
        with locks.held(tmp_path / "a.lock", "b", wait=True):
            pass
    assert capsys.readouterr().err == ""
