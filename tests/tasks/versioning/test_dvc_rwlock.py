"""What a killed DVC leaves in its note does not stop the next command."""

import json
import os
from pathlib import Path

import pytest

from tasks.execution.stage_runner import run_stage
from tasks.versioning.dvc_rwlock import dvc_holders, forget_the_dead
from tests.tasks.toy_project import make_toy_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "project")


def note(project: Path, pid: int) -> str:
    """DVC's note of a process that writes the stage's output."""
    entry = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"write": {str(project / "output.txt"): entry}, "read": {}})


@pytest.mark.parametrize("left", ["cut short", "number used again"])
def test_stage_runs_whatever_a_killed_dvc_left(project, left):
    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    whole = note(project, os.getpid())
    path.write_text(whole if left == "number used again" else whole[:20])
    os.utime(path, (0, 0))  # older than this process, which is no DVC
    assert run_stage("copy", project).status == "ran"


def test_living_dvc_stays_in_the_note_and_is_told_of(project):
    """It need not be the command: this process may use DVC as a library."""
    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(note(project, os.getpid()))
    forget_the_dead(project)
    assert path.read_text() == note(project, os.getpid())
    assert f"pid {os.getpid()}" in dvc_holders(project)[0]
    os.utime(path, (0, 0))
    assert dvc_holders(project) == []
