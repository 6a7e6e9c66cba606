"""The steps of a retraining on a toy project with real DVC and git; MLflow is away."""

import shutil

import pytest

from tasks.errors import TaskError
from tasks.execution.retraining_run import Retraining
from tasks.versioning.dvc import run_dvc
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project, write_images


@pytest.fixture
def told():
    return []


@pytest.fixture
def run(tmp_path, monkeypatch, told):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("speed", "register"))
    git(root, "commit", "-q", "-a", "-m", "settings")
    with Retraining(root, root, "run-1", told.append) as run:
        run.stage("copy")
        yield run


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("shout.py", "print('another program')", "shout.py"),
        ("params.yaml", PARAMS.replace("tiny", "small"), "register in params.yaml"),
    ],
)
def test_what_was_edited_after_its_stage_is_neither_committed_nor_registered(
    run, file, text, named
):
    used = (run.root / file).read_text()
    (run.root / file).write_text(text)
    for step in (run.snapshot, run.register):
        with pytest.raises(TaskError, match=f"not registered: {named} changed.*`instar run` again"):
            step()
    assert git(run.root, "branch", "--list", "runs/*") == ""
    (run.root / file).write_text(used)
    assert run.snapshot() == git(run.root, "rev-parse", "runs/run-1")


def test_an_edit_that_concerns_no_stage_is_committed(run):
    (run.root / ".gitignore").write_text(".instar/\n/output.txt\n*.bak\n")
    assert "*.bak" in git(run.root, "show", f"{run.snapshot()}:.gitignore")


def next_run(run, told):
    """In the same checkout, where `copy` has been computed; gives what is told of that stage."""
    told.clear()
    with Retraining(run.root, run.root, "run-2", told.append) as following:
        following.stage("copy")
    return of_copy(told)


def of_copy(told):
    return [line for line in told if line.startswith("copy: ")]


def test_without_a_terminal_a_stage_that_computes_tells_where_its_log_is(run, told):
    assert of_copy(told)[0] == "copy: running, see .instar/logs/copy.log"
    assert "copying 5 characters" in (run.root / ".instar/logs/copy.log").read_text()
    assert next_run(run, told) == ["copy: cached"]


def test_at_a_terminal_the_bar_is_sign_enough(run, told, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    (run.root / "input.txt").write_text("other")
    (line,) = next_run(run, told)
    assert "running" not in line


def test_data_that_dvc_tracks_are_put_in_their_place(run):
    settings = PARAMS.replace("data/raw/images.npz", "raw/images.npz")
    (run.root / "params.yaml").write_text(settings)
    data = run.root / "raw" / "images.npz"
    data.parent.mkdir()
    write_images(data)
    pixels = data.read_bytes()
    assert run_dvc(["add", "raw"], run.root).returncode == 0
    shutil.rmtree(data.parent)
    run.fetch()
    assert data.read_bytes() == pixels


def test_settings_that_do_not_fit_what_was_fetched_are_refused(run):
    settings = PARAMS.replace("data/raw/images.npz", "raw/images.npz").replace("0.05", "0.001")
    (run.root / "params.yaml").write_text(settings)
    (run.root / "raw").mkdir()
    write_images(run.root / "raw" / "images.npz")
    assert run_dvc(["add", "raw"], run.root).returncode == 0
    shutil.rmtree(run.root / "raw")
    with pytest.raises(TaskError, match=r"finetune.label_fraction = 0.001: .*`instar set "):
        run.fetch()


def test_tracked_data_that_are_nowhere_are_told_with_the_remedy(run):
    (run.root / "params.yaml").write_text(PARAMS.replace("data/raw/images.npz", "input.npz"))
    (run.root / "input.npz").write_text("pixels")
    assert run_dvc(["add", "input.npz"], run.root).returncode == 0
    (run.root / "input.npz").unlink()
    shutil.rmtree(run.root / ".dvc" / "cache")
    with pytest.raises(TaskError, match=r"neither cache nor remote holds what input.npz.dvc"):
        run.fetch()
