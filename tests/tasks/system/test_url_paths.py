"""A checkout may lie in a folder of any name: nothing of it lies elsewhere, or it is refused."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.execution.stage_runner import run_stage
from tasks.execution.workspace import isolated
from tasks.operations.health_checks import check_disk
from tasks.operations.server_checks import check_mlflow
from tasks.reproduction.clone import private_clone
from tasks.system.url_paths import require_place
from tasks.tracking.client import connect, tracking_uri_of
from tasks.tracking.runs import artifacts_of, ensure_experiment
from tasks.versioning.dvc_remote import dvc_settings, fetch, push
from tests.tasks.toy_project import git, make_toy_project

TAKEN = [
    "feature%2Flabels",
    "a%20b",
    "100%",
    "a%00b",
    "caf%c3%a9",
    "..%2F..%2Fa",
    "two words ",
    "a#b",
    "a;b",
    "a, b",
    "a&b=c",
    "a@b",
    "~a",
    "a*[x]",
    "John's",
    'say "x"',
    "back\\slash",
    "$HOME",
    "-a",
    "café",
    "cafe\u0301",
    "日本語",
    "...",
    "project.git",
    "x" * 200,
]
REFUSED = {
    "a?b": "databases end the path",
    "a?mode=memory": "databases end the path",
    "a:b": "PATH and PYTHONPATH part",
    "%(x)s": "another setting",
    "{x}": "a value to fill in",
    "{{ x }}": "a value to fill in",
    "both ' and \"": "for its database",
    "two\nlines": "part lines",
    "a\tb": "part lines",
    os.fsdecode(b"\xff"): "not valid UTF-8",
}
NASTIEST = "é%2F #1; a,b [x] & =+~$HOME @日本 ' \\ *!"


def outside(box, root):
    """Files below `box` that are not below `root`."""
    return [path for path in box.rglob("*") if path.is_file() and not path.is_relative_to(root)]


@pytest.fixture
def client_in(tmp_path, empty_database):
    def make(name):
        root = tmp_path / "box" / name
        root.mkdir(parents=True)
        shutil.copyfile(empty_database, root / "mlflow.db")
        return root, connect(tracking_uri_of(root))

    return make


@pytest.mark.parametrize("name", TAKEN)
def test_what_mlflow_keeps_of_a_checkout_lies_within(name, client_in, tmp_path):
    root, client = client_in(name)
    (tmp_path / "weights").write_text("weights")
    for _ in range(2):
        experiment = ensure_experiment(client, "tiny", root)
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(tmp_path / "weights"), "model")
    (kept,) = root.rglob("weights")
    assert kept.is_relative_to(root / "mlartifacts")
    assert outside(tmp_path / "box", root) == []
    assert Path(client.download_artifacts(run, "model/weights")).read_text() == "weights"
    assert check_mlflow(root).found == f"database at {root / 'mlflow.db'}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_a_library_takes_for_another_is_refused(name, tmp_path):
    root = tmp_path / name
    root.mkdir()
    for use in (require_place, tracking_uri_of, check_disk):
        with pytest.raises(TaskError, match=REFUSED[name]) as refused:
            use(root)
        assert "Rename or move it" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(TaskError, match="list of folders"):
        require_place(tmp_path / "a,b", also=",")


def test_a_plain_path_is_written_as_before(tmp_path):
    assert artifacts_of(tmp_path) == f"{tmp_path}/mlartifacts"


def test_an_experiment_that_mlflow_would_keep_elsewhere_is_refused(client_in):
    root, client = client_in("feature%2Flabels")
    client.create_experiment("tiny", artifact_location=str(root / "mlartifacts"))
    with pytest.raises(TaskError, match=r"feature/labels/mlartifacts, not in this checkout"):
        ensure_experiment(client, "tiny", root)


@pytest.mark.parametrize("name", ["a, b", NASTIEST])
def test_worktree_and_clone_use_the_cache_and_remote_of_a_checkout_of_any_name(name, tmp_path):
    root = make_toy_project(tmp_path / "box" / name)
    run_stage("copy", root)
    push(root)
    git(root, "add", "-f", "dvc.lock")
    git(root, "commit", "-q", "-m", "run")
    git(root, "tag", "made")
    with isolated(root, "run-1") as place:
        settings = dvc_settings(place)
        assert settings["cache.dir"] == str(root / ".dvc" / "cache")
        assert settings["remote.local.url"] == str(root / ".instar" / "remote")
        assert run_stage("copy", place).status == "cached"
    with private_clone(root, "made") as clone:
        assert fetch(clone) == "fetched"
        assert run_stage("copy", clone).status == "cached"
    assert outside(tmp_path / "box", root) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_run_in_the_nastiest_folder_writes_nothing_outside(tmp_path):
    from tests.e2e.tiny_project import instar, make_tiny_project

    box = tmp_path / "box"
    root = make_tiny_project(box / NASTIEST)
    for command in (["run"], ["models", "--json"], ["lineage", "tiny@production"], ["doctor"]):
        ended = instar(root, *command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list((root / "mlartifacts").rglob("classifier.safetensors"))
    assert outside(box, root) == []
