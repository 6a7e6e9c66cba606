"""The checkout's lock and the isolated worktree, on real git and DVC."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.execution.stage_runner import run_stage
from tasks.execution.workspace import BusyError, isolated, locked
from tasks.versioning.dvc_remote import fetch, push
from tests.tasks.toy_project import git, make_toy_project

HERE = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "project")


def test_second_process_is_told_who_holds_the_checkout(tmp_path):
    try_it = "from tasks.execution.workspace import locked\nwith locked('.'): pass"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with locked(tmp_path, what="instar run"):
        refused = subprocess.run(
            [sys.executable, "-c", try_it], cwd=tmp_path, env=environment, capture_output=True
        )
        assert f"instar run with pid {os.getpid()}, started" in refused.stderr.decode()
        assert "--wait" in refused.stderr.decode()
    subprocess.run([sys.executable, "-c", try_it], cwd=tmp_path, env=environment, check=True)


def test_lock_of_the_same_process_is_not_reentrant(tmp_path):
    with locked(tmp_path), pytest.raises(BusyError), locked(tmp_path):
        pass


def test_isolated_run_shares_cache_and_remote_and_leaves_the_checkout_as_it_was(project):
    (project / "input.txt").write_text("an edit that is not committed")
    with isolated(project, "run-1") as place:
        assert (place / "input.txt").read_text() == "hello"
        assert run_stage("copy", place).status == "ran"
        push(place)
        (place / ".instar" / "journal" / "copy-1.jsonl").write_text("kept\n")
    assert not place.exists()
    assert "run-1" not in git(project, "worktree", "list")
    assert (project / ".instar" / "journal" / "copy-1.jsonl").read_text() == "kept\n"
    assert any((project / ".instar" / "remote").iterdir())
    assert git(project, "status", "--porcelain").endswith("M input.txt")

    (project / "input.txt").write_text("hello")
    assert run_stage("copy", project).status == "cached", "the cache was not shared"


def test_isolated_run_brings_tracked_data_whose_name_has_a_space(project):
    (project / "raw data.bin").write_bytes(b"pixels")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "raw data.bin"], cwd=project)
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "data")
    with isolated(project, "run-3") as place:
        assert (place / "raw data.bin").read_bytes() == b"pixels"


def test_isolated_run_keeps_dvcs_secrets_from_other_users(project):
    secret = project / ".dvc" / "config.local"
    secret.write_text("['remote \"local\"']\n    password = hush\n")
    with isolated(project, "run-4") as place:
        copied = place / ".dvc" / "config.local"
        assert "hush" in copied.read_text()
        assert copied.stat().st_mode & 0o077 == 0


def test_worktree_is_removed_after_a_failure(project):
    with pytest.raises(RuntimeError), isolated(project, "run-2") as place:
        raise RuntimeError
    assert not place.exists()


def test_worktree_of_a_killed_run_is_swept_by_the_next(project):
    killed = "\n".join(
        [
            "import os, signal",
            "from tasks.execution.workspace import isolated",
            "with isolated('.', 'killed') as place: os.kill(os.getpid(), signal.SIGKILL)",
        ]
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    subprocess.run([sys.executable, "-c", killed], cwd=project, env=environment, check=False)
    left = project / ".instar" / "work" / "killed"
    assert left.exists()
    with isolated(project, "next"):
        assert not left.exists()


def test_worktree_that_another_works_in_is_refused_by_name(project):
    with (
        isolated(project, "run-3"),
        pytest.raises(BusyError, match="held by run run-3 with pid"),
        isolated(project, "run-3"),
    ):
        pass


def test_isolated_run_needs_a_commit(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(TaskError, match="commit"), isolated(tmp_path, "run"):
        pass


def test_push_without_a_remote_says_what_to_do(project):
    run_stage("copy", project)
    (project / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    assert fetch(project) == "no DVC remote is set"
    with pytest.raises(TaskError, match="dvc remote add -d"):
        push(project)


def test_fetch_brings_back_what_the_cache_lost(project):
    run_stage("copy", project)
    assert "empty" in fetch(project)
    push(project)
    subprocess.run(["rm", "-rf", ".dvc/cache", "output.txt"], cwd=project, check=True)
    assert fetch(project) == "fetched"
    assert run_stage("copy", project).status == "cached"
