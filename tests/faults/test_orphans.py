"""Whatever is killed, cancelled or timed out: no process is left, and the next run just works.

The flow, its server and its worker are the real ones; the stage sleeps in the real frame.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.execution.workspace import isolated
from tests.e2e.tiny_project import environment, git, instar, make_tiny_project
from tests.faults.framed_project import processes_in, put_framed_stage, stages_in
from tests.faults.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TIMED = """\
import sys
from flows.orchestration.servers import PrefectServer
with PrefectServer(".") as server:
    server.wait()
    from flows.retrain import retrain
    try:
        retrain.with_options(timeout_seconds=60)(".", isolated=sys.argv[1] == "isolated")
    except TimeoutError:
        print("timed out", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def project(tmp_path: Path):
    root = make_tiny_project(tmp_path / "project")
    yield put_framed_stage(root, "sleep=600")
    for pid in processes_in(root):  # of a test that failed
        os.kill(pid, signal.SIGKILL)


def start(root: Path, *arguments: str, **changes: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env={**environment(root), **changes},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def prefect(root: Path, *arguments: str) -> str:
    """Type `prefect …` against the server that the project's worker uses."""
    address = (root / ".instar" / "prefect" / "server" / "address").read_text()
    asked = start(root, "-m", "prefect", *arguments, PREFECT_API_URL=address)
    said, _ = asked.communicate()
    assert asked.returncode == 0, said
    return said


def end(process: subprocess.Popen, said: str | None = None) -> str:
    """What it printed; an orphan that keeps its pipe open is found here."""
    return process.communicate(said, timeout=120)[0]


def start_scheduled_run(root: Path) -> subprocess.Popen:
    """A worker in the midst of a scheduled run."""
    assert instar(root, "schedule", "--cron", "0 0 1 1 *").returncode == 0
    worker = start(root, "-m", "flows.cli", "worker")
    assert "Serving" in worker.stdout.readline()
    prefect(root, "deployment", "run", "retrain/scheduled")
    until(lambda: stages_in(root), "the scheduled run did not start", 180)
    return worker


def assert_nobody_is_left(root: Path) -> None:
    until(lambda: not processes_in(root), "processes are left")


def assert_next_run_works(root: Path) -> None:
    """It gets behind the stage; there is no further one."""
    (root / "input.txt").write_text("")
    again = instar(root, "run")
    assert "prepare: " in again.stdout, again.stdout + again.stderr
    assert "dvc.yaml has no stage 'pretrain'" in again.stderr
    assert_nobody_is_left(root)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.faults),
        pytest.param(signal.SIGKILL, marks=pytest.mark.faults),
    ],
)
def test_nobody_outlives_a_run(project, number):
    run = start(project, "-m", "flows.cli", "run")
    until(lambda: stages_in(project), "the stage did not start", 180)
    until(lambda: list(project.glob(".instar/checkpoints/*/*.ckpt")), "no checkpoint")
    run.send_signal(number)
    said = end(run)
    assert_nobody_is_left(project)
    assert list(project.glob(".instar/checkpoints/*/*.ckpt"))
    if number != signal.SIGKILL:
        assert run.returncode == 130
        assert "the last checkpoint are kept; the same command goes on from there" in said
        assert "Traceback" not in said
    assert_next_run_works(project)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.faults),
        pytest.param(signal.SIGTERM, marks=pytest.mark.faults),
        signal.SIGKILL,
    ],
)
def test_nobody_outlives_a_worker(project, number):
    worker = start_scheduled_run(project)
    worker.send_signal(number)
    end(worker)
    assert_nobody_is_left(project)
    assert_next_run_works(project)
    assert_next_worktree_is_the_only_one(project)


def assert_next_worktree_is_the_only_one(root: Path) -> None:
    with isolated(root, "next"):
        assert len(git(root, "worktree", "list").splitlines()) == 2
    assert not list((root / ".instar" / "work").iterdir())


@pytest.mark.faults
def test_cancelled_run_leaves_its_worker_alone(project):
    worker = start_scheduled_run(project)
    listed = prefect(project, "flow-run", "ls", "--state-type", "RUNNING", "-o", "json")
    prefect(project, "flow-run", "cancel", json.loads(listed)[0]["id"])
    until(lambda: not stages_in(project), "the stage lives on")
    assert worker.poll() is None
    worker.send_signal(signal.SIGINT)
    end(worker)
    assert_nobody_is_left(project)
    assert_next_run_works(project)


@pytest.mark.faults
@pytest.mark.parametrize("where", ["isolated", "in the checkout"])
def test_run_that_times_out_ends_its_stage(project, where):
    timed = start(project, "-c", TIMED, where)
    until(lambda: stages_in(project), "the stage did not start", 180)
    lines = iter(timed.stdout.readline, "")
    assert any(line == "timed out\n" for line in lines)
    until(lambda: not stages_in(project), "the stage lives on")
    end(timed, "")
    assert_nobody_is_left(project)
    assert_next_run_works(project)
