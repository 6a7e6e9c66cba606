"""Nothing that a leashed command starts outlives the leash: other sessions, deaf processes."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tasks.system.supervised_process import Leash
from tests.faults.framed_project import HERE, processes_in
from tests.faults.waiting import until

# As Prefect's worker does with each flow run; the child is deaf to SIGTERM.
COMMAND = """\
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", deaf, "own-session"], start_new_session=True)
time.sleep(600)
"""
OWNER = """\
import pathlib, sys
from tasks.system.supervised_process import Leash
with Leash([sys.executable, "-c", sys.argv[1]], pathlib.Path.cwd(), grace=1.0) as leash:
    leash.wait()
"""


def started(folder):
    commands = [psutil.Process(pid).cmdline() for pid in processes_in(folder)]
    return any("own-session" in command[-1:] for command in commands)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_child_in_a_session_of_its_own_ends_with_the_owner(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, COMMAND],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: started(tmp_path), "the command did not start")
    owner.send_signal(number)
    owner.wait()
    until(lambda: not processes_in(tmp_path), "processes are left")


def test_stop_ends_deaf_processes_before_it_returns(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + COMMAND
    with Leash([sys.executable, "-c", deaf], tmp_path, grace=1.0):
        until(lambda: started(tmp_path), "the command did not start")
    assert not processes_in(tmp_path)


def test_command_that_ends_leaves_nobody_behind(tmp_path):
    leaving = COMMAND.replace("time.sleep(600)\n", "time.sleep(1)\n")
    with Leash([sys.executable, "-c", leaving], tmp_path, grace=1.0) as leash:
        until(lambda: started(tmp_path), "the command did not start")
        assert leash.wait() == 0
    assert not processes_in(tmp_path)


BORN_LATE = """\
import pathlib, signal, subprocess, sys, time
late = (
    "import pathlib, signal, sys, time;"
    "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('asked').touch(), sys.exit()));"
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]);"  # not asked before it can hear
    "time.sleep(600)"
)
deaf = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
born = []
def bear(*_):
    if not born:
        command = [sys.executable, "-c", late]
        born.append(subprocess.Popen(command, start_new_session=True, preexec_fn=deaf))
signal.signal(signal.SIGTERM, bear)
pathlib.Path("ready").touch()
while True:
    time.sleep(600)
"""


def test_child_born_while_the_others_end_is_asked_to_end_too(tmp_path):
    with Leash([sys.executable, "-c", BORN_LATE], tmp_path, grace=2.0) as leash:
        until((tmp_path / "ready").exists, "the command did not start")
        os.close(leash._writing)  # as when this process dies
        leash._writing = -1
        leash.wait()
    assert (tmp_path / "asked").exists()
    assert not processes_in(tmp_path)
