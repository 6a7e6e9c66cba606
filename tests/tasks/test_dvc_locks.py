"""What a killed DVC leaves in its note does not stop the next command."""

import json
import os
from pathlib import Path

import pytest

from tasks.dvc_locks import dvc_holders, forget_the_dead
from tasks.runner import run_stage
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
    whole = note(project, os.getpid())  # alive, and no DVC
    path.write_text(whole if left == "number used again" else whole[:20])
    assert run_stage("copy", project).status == "ran"


def test_living_dvc_stays_in_the_note(project, monkeypatch):
    import tasks.dvc_locks

    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(note(project, os.getpid()))
    assert dvc_holders(project) == []
    monkeypatch.setattr(tasks.dvc_locks, "_alive", lambda entry: True)
    forget_the_dead(project)
    assert path.read_text() == note(project, os.getpid())
    assert f"pid {os.getpid()}" in dvc_holders(project)[0]
