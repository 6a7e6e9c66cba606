"""Many at once: in one checkout, in worktrees, flows beside typed commands. Nobody's work is hurt.

Real processes, real DVC. A stage that computed left one `start` in its journal.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tasks.execution.workspace import BusyError, locked
from tasks.system.locks import HeldError, held
from tests.faults.framed_project import git, make_framed_project, processes_in, stages_in, start
from tests.faults.waiting import until

REPRO = ("-P", "-m", "dvc", "repro")
# What `instar run` and the flow of a schedule do about the workspace.
IN_CHECKOUT = """\
import sys
from tasks.execution.stage_runner import run_stage
from tasks.execution.workspace import locked
with locked(".", wait=sys.argv[1] == "wait", what="instar run"):
    print(run_stage("prepare", ".").status)
"""
IN_WORKTREE = """\
import sys
from tasks.execution.stage_runner import run_stage
from tasks.execution.workspace import isolated
with isolated(".", sys.argv[1]) as place:
    print(run_stage("prepare", place).status)
"""
FORKING = """\
import os, pathlib, time
from tasks.system.locks import held
with held(pathlib.Path("a.lock"), "forking"):
    if os.fork() == 0:
        time.sleep(600)
    print("forked", flush=True)
    time.sleep(600)
"""


def bounds(project: Path) -> list[str]:
    """Starts and ends of the stage's computations, in whatever workspace, in their order."""
    (journal,) = (project / ".instar" / "journal").glob("prepare-*.jsonl")
    events = [json.loads(line)["event"] for line in journal.read_text().splitlines()]
    return [event for event in events if event in ("start", "end")]


def computed(project: Path) -> int:
    return bounds(project).count("start")


def assert_whole(project: Path) -> None:
    """The lock file is DVC's own work, and the outputs are what it says."""
    asked = start(project, "-P", "-m", "dvc", "status", "--json")
    said, _ = asked.communicate()
    assert json.loads(said.splitlines()[-1]) == {}, said
    assert (project / "artifacts/prepare/result.txt").read_text() == "done"


def ends_of(many: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and what was printed, without the lines that say what is waited for."""
    lines = [one.communicate()[0].splitlines(keepends=True) for one in many]
    said = ["".join(line for line in own if not line.startswith("waiting for ")) for own in lines]
    return [(one.returncode, text) for one, text in zip(many, said, strict=True)]


def test_second_typed_stage_is_refused_and_the_first_goes_on(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=8")
    first = start(project, "work.py")
    assert first.stdout.readline() == "asleep\n" or first.stdout.readline() == "asleep\n"
    second = start(project, "work.py")
    said, _ = second.communicate()
    assert second.returncode == 1
    assert f"artifacts/prepare is busy: stage prepare with pid {first.pid}, started" in said
    assert not (project / ".instar/errors/prepare.txt").exists(), "it would explain the first's end"
    first.communicate()
    assert first.returncode == 0
    assert (project / "artifacts/prepare/result.txt").read_text() == "done"


def test_stage_starts_at_once_after_one_that_was_killed(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=600")
    killed = start(project, "work.py")
    until(lambda: list(project.glob(".instar/checkpoints/*/*.ckpt")), "the stage did not start")
    killed.kill()
    killed.wait()
    (project / "input.txt").write_text("")
    again = start(project, "work.py")
    assert (again.communicate()[0], again.returncode) == ("", 0)


def test_forked_worker_does_not_keep_the_lock_of_a_killed_stage(tmp_path):
    owner = start(tmp_path, "-c", FORKING)
    owner.stdout.readline()
    with pytest.raises(HeldError, match=f"forking with pid {owner.pid}, started"):
        held(tmp_path / "a.lock", "test").__enter__()
    owner.kill()
    owner.wait()
    left = processes_in(tmp_path)
    assert left, "this test is about a worker that lives"
    with held(tmp_path / "a.lock", "test"):
        pass
    for pid in left:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_what_another_worktree_computes_is_waited_for_and_not_computed_again(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=6")
    first = start(project, "-c", IN_WORKTREE, "run-1")
    until(lambda: stages_in(project), "the stage did not start")
    second = start(project, "-c", IN_WORKTREE, "run-2")
    assert ends_of([first, second]) == [(0, "ran\n"), (0, "cached\n")]
    assert computed(project) == 1
    assert not list((project / ".instar" / "work").iterdir())


@pytest.mark.slow
def test_run_beside_a_typed_repro_is_refused_by_name_or_waits(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=8")
    typed = start(project, *REPRO)
    until(lambda: stages_in(project), "the stage did not start")
    with pytest.raises(BusyError, match=f"DVC command with pid {typed.pid}, started .*--wait"):
        locked(project, what="instar run").__enter__()
    waiting = start(project, "-c", IN_CHECKOUT, "wait")
    (status, said), typed_end = ends_of([waiting, typed])
    assert (status, said, typed_end[0]) == (0, "cached\n", 0)
    assert computed(project) == 1
    assert_whole(project)


@pytest.mark.slow
def test_typed_repro_beside_a_run_is_refused_and_hurts_nothing(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=8")
    run = start(project, "-c", IN_CHECKOUT, "refuse")
    until(lambda: stages_in(project), "the stage did not start")
    (status, said), ended = ends_of([start(project, *REPRO), run])
    assert status != 0 and "blocked by" in said
    assert ended == (0, "ran\n")
    assert_whole(project)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("wait", ["wait", "refuse"])
def test_twenty_starts_in_one_checkout(tmp_path, wait):
    project = make_framed_project(tmp_path / "project", "sleep=1")
    ends = ends_of([start(project, "-c", IN_CHECKOUT, wait) for _ in range(20)])
    done = [said for status, said in ends if status == 0]
    refused = [said for status, said in ends if status != 0]
    assert sorted(done) == ["cached\n"] * (len(done) - 1) + ["ran\n"]
    assert all("is busy: held by instar run with pid" in said for said in refused)
    assert len(refused) == 0 if wait == "wait" else len(done) + len(refused) == 20
    assert computed(project) == 1
    assert_whole(project)


@pytest.mark.slow
@pytest.mark.faults
def test_twenty_schedules_that_fire_at_once(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=1")
    ends = ends_of([start(project, "-c", IN_WORKTREE, f"run-{n}") for n in range(20)])
    assert sorted(ends) == [(0, "cached\n")] * 19 + [(0, "ran\n")]
    assert computed(project) == 1
    assert not list((project / ".instar" / "work").iterdir())
    assert len(git(project, "worktree", "list").splitlines()) == 1
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.faults
def test_twenty_typed_repros(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=1")
    ends = ends_of([start(project, *REPRO) for _ in range(20)])
    refusals = ("blocked by", "Unable to acquire lock")
    assert any(status == 0 for status, _ in ends)
    assert all(status == 0 or any(sign in said for sign in refusals) for status, said in ends), ends
    assert computed(project) == 1
    assert_whole(project)


@pytest.mark.slow
@pytest.mark.faults
def test_twenty_bare_stages_write_one_after_the_other_or_not(tmp_path):
    project = make_framed_project(tmp_path / "project", "sleep=2")
    ends = ends_of([start(project, "work.py") for _ in range(20)])
    assert any(status == 0 for status, _ in ends)
    assert all(status == 0 or "is busy: stage prepare" in said for status, said in ends), ends
    assert bounds(project) == ["start", "end"] * computed(project)
    assert (project / "artifacts/prepare/result.txt").read_text() == "done"
