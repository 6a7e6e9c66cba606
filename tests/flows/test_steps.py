"""The steps of a retraining on a toy project with real DVC and git; MLflow is away."""

import pytest

from flows.steps import Retraining
from tasks.errors import TaskError
from tests.tasks.conftest import PARAMS
from tests.tasks.toy_project import git, make_toy_project


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    root = make_toy_project(tmp_path / "project")
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("speed", "register"))
    git(root, "commit", "-q", "-a", "-m", "settings")
    with Retraining(root, root, "run-1", lambda _: None) as run:
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
