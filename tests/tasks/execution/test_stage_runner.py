"""The stage runner on real DVC: what ran, what was cached, what failed, and that nothing stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.execution.stage_runner import planned_stages, run_stage
from tasks.versioning.dvc import dvc_command, dvc_environment
from tests.tasks.toy_project import make_toy_project

HERE = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "project")


def test_stage_runs_then_is_unchanged_then_is_restored_from_the_run_cache(project):
    lines: list[str] = []
    first = run_stage("copy", project, lines.append)
    assert (first.status, first.stage) == ("ran", "copy")
    assert (project / "output.txt").read_text() == "HELLO"
    assert "copying 5 characters" in lines
    assert "copying 5 characters" in (project / ".instar/logs/copy.log").read_text()

    again = run_stage("copy", project)
    assert again.status == "cached"
    assert again.key == first.key

    (project / "output.txt").unlink()
    (project / "dvc.lock").unlink()
    assert run_stage("copy", project).status == "cached"
    assert (project / "output.txt").read_text() == "HELLO"


def test_planned_stages_are_those_that_changed(project):
    assert planned_stages(project) == ["copy"]
    run_stage("copy", project)
    assert planned_stages(project) == []


def test_stages_behind_one_that_never_ran_are_planned_too(project):
    with (project / "dvc.yaml").open("a") as file:
        file.write("  copy_again:\n    cmd: cp output.txt again.txt\n")
        file.write("    deps: [output.txt]\n    outs: [again.txt]\n")
    assert planned_stages(project) == ["copy", "copy_again"]


def test_stages_behind_one_that_changed_are_planned_too(project):
    with (project / "dvc.yaml").open("a") as file:
        file.write("  copy_again:\n    cmd: cp output.txt again.txt\n")
        file.write("    deps: [output.txt]\n    outs: [again.txt]\n")
        file.write("  apart:\n    cmd: cp params.yaml apart.txt\n    outs: [apart.txt]\n")
    for stage in ("copy", "copy_again", "apart"):
        run_stage(stage, project)
    (project / "input.txt").write_text("changed")
    assert planned_stages(project) == ["copy", "copy_again"]


def test_a_stage_whose_data_dvc_can_bring_is_planned_before_they_are_there(project):
    (project / "input.txt").unlink()
    with pytest.raises(TaskError, match=r"input\.txt"):
        planned_stages(project)
    (project / "input.txt.dvc").write_text("outs: [{path: input.txt}]\n")
    assert planned_stages(project) == ["copy"]


def test_failure_carries_the_stages_own_message_and_no_stack_trace(project):
    (project / "input.txt").write_text("complain")
    with pytest.raises(TaskError) as caught:
        run_stage("copy", project)
    assert str(caught.value) == "input.txt holds a complaint: write something else into it."


def test_a_former_complaint_does_not_explain_a_crash(project):
    (project / "input.txt").write_text("complain")
    with pytest.raises(TaskError):
        run_stage("copy", project)
    (project / "input.txt").write_text("crash")
    with pytest.raises(TaskError, match=r"stage copy failed: ValueError: a bug\..*copy\.log"):
        run_stage("copy", project)


def test_unknown_stage_is_explained(project):
    with pytest.raises(TaskError, match="nonsense"):
        run_stage("nonsense", project)


def test_beside_another_dvc_command_its_pid_and_the_remedy_are_said(project):
    (project / "input.txt").write_text("sleep")
    other = subprocess.Popen(
        dvc_command(["repro"]),
        cwd=project,
        env=dvc_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: _stage_sleeps(project), "the stage did not start")
        for attempt in (lambda: planned_stages(project), lambda: run_stage("copy", project)):
            with pytest.raises(TaskError) as refused:
                attempt()
            assert (
                f"another DVC command (pid {other.pid}) holds this checkout; "
                "try again when it has ended"
            ) in str(refused.value)
    finally:
        os.killpg(other.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("run_stage('copy', '.')", signal.SIGTERM),
        ("run_stage('copy', '.')", signal.SIGKILL),
        ("run_stage('copy', '.')", signal.SIGINT),
        ("run_dvc(['repro'], '.')", signal.SIGKILL),
    ],
)
def test_no_process_of_dvc_outlives_its_runner(project, call, number):
    (project / "input.txt").write_text("sleep")
    runner = subprocess.Popen(
        [sys.executable, "-c", f"from tasks.execution.stage_runner import *; {call}"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: _stage_sleeps(project), "the stage did not start")
        runner.send_signal(number)
        runner.wait(timeout=30)
        _until(lambda: not _processes_in(project), "processes are left")
    finally:
        runner.kill()


def _stage_sleeps(folder: Path) -> bool:
    """Whether the stage has started what it waits for."""
    commands = [Path(f"/proc/{pid}/cmdline") for pid in _processes_in(folder)]
    return any(b"toy-grandchild" in path.read_bytes() for path in commands if path.exists())


def _processes_in(folder: Path) -> set[int]:
    """Processes that work in `folder`."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def _until(holds, complaint: str, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)
