"""A version made again, on real git, DVC and MLflow, with toy stages that take no time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.execution.workspace import sign_of_life
from tasks.registry.tags import WEIGHTS
from tasks.reproduction.reproduce import reproduce
from tasks.system.hashing import hash_file
from tasks.system.locks import is_free
from tasks.tracking.client import connect
from tasks.tracking.metrics import as_metrics
from tasks.tracking.runs import PARENT, STAGE
from tests.tasks.conftest import uri
from tests.tasks.toy_project import git

HERE = Path(__file__).resolve().parents[3]
PIPELINE = """\
stages:
  prepare:
    cmd: python -m tasks.stages.prepare
    deps: [raw.txt, tasks/stages/prepare.py]
    outs: [artifacts/prepare/store]
  finetune:
    cmd: python -m tasks.stages.finetune
    params: [finetune]
    deps: [artifacts/prepare/store, tasks/stages/finetune.py]
    outs: [artifacts/finetune/classifiers, artifacts/finetune/metrics.json]
"""
PREPARE = """\
import pathlib
store = pathlib.Path("artifacts/prepare/store"); store.mkdir(parents=True, exist_ok=True)
store.joinpath("pixels").write_text(pathlib.Path("raw.txt").read_text().upper())
"""
FINETUNE = """\
import json, pathlib, time
pathlib.Path(".instar/began").touch()
time.sleep(0)
seen = len(pathlib.Path("artifacts/prepare/store/pixels").read_text())
out = pathlib.Path("artifacts/finetune"); out.joinpath("classifiers").mkdir(parents=True)
for arm in ("pretrained", "scratch"):
    out.joinpath(f"classifiers/{arm}-0.safetensors").write_text(f"weights of {arm}")
out.joinpath("metrics.json").write_text(json.dumps({"accuracy": seen / 10, "loss": 0.5}))
"""
REMOTE = """\
[core]
    remote = local
['remote "local"']
    url = ../.instar/remote
    verify = true
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_database):
    """A project whose version 1 is registered, pushed and tagged."""
    root = tmp_path_factory.mktemp("reproduce") / "project"
    (root / "tasks" / "stages").mkdir(parents=True)
    files = {
        "dvc.yaml": PIPELINE,
        "params.yaml": "data: {source: npz, path: raw.txt}\nfinetune: {steps: 1}\n",
        "raw.txt": "pixels",
        "tasks/__init__.py": "",
        "tasks/stages/prepare.py": PREPARE,
        "tasks/stages/finetune.py": FINETUNE,
        ".gitignore": ".instar/\n/artifacts/\n/mlflow.db\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    dvc(root, "init", "-q")
    (root / ".dvc" / "config").write_text(REMOTE)
    (root / ".instar").mkdir()
    dvc(root, "repro", "-q")
    dvc(root, "push", "-q")
    shutil.copyfile(empty_database, root / "mlflow.db")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "version 1")
    git(root, "tag", "instar/toy/v1")
    register(root)
    return root


@pytest.fixture
def project(made, tmp_path):
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def register(root):
    client = connect(uri(root))
    experiment = client.create_experiment("toy", artifact_location=str(root / "mlartifacts"))
    parent = client.create_run(experiment).info.run_id
    child = client.create_run(experiment, tags={STAGE: "finetune", PARENT: parent}).info.run_id
    client.log_batch(child, metrics=as_metrics({"accuracy": 0.6, "loss": 0.5}))
    client.create_registered_model("toy")
    tags = {
        "git_commit": git(root, "rev-parse", "HEAD"),
        "dvc_lock": hash_file(root / "dvc.lock"),
        "weights": hash_file(root / WEIGHTS),
        "device": "cpu",
    }
    client.create_model_version("toy", source=str(root), run_id=parent, tags=tags)


def dvc(root, *arguments):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-P", "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "PATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def tags_of(root):
    return connect(uri(root)).get_model_version("toy", "1").tags


def tag_version(root, name, value):
    connect(uri(root)).set_model_version_tag("toy", "1", name, value)


def change_the_tagged_commit(root, file, old, new):
    """As if the version had been made by other code than its outputs were."""
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    git(root, "commit", "-q", "-a", "--amend", "-m", "version 1")
    git(root, "tag", "--force", "instar/toy/v1")
    tag_version(root, "git_commit", git(root, "rev-parse", "HEAD"))


def tell_mlflow(root, **numbers):
    client = connect(uri(root))
    parent = client.get_model_version("toy", "1").run_id
    experiment = client.get_run(parent).info.experiment_id
    (child,) = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'")
    client.log_batch(child.info.run_id, metrics=as_metrics(numbers, step=1))


def test_a_version_is_made_again_from_its_commit_and_the_remote_alone(project):
    # What the checkout itself has must not help.
    shutil.rmtree(project / ".dvc" / "cache")
    shutil.rmtree(project / "artifacts")
    (project / "tasks" / "stages" / "finetune.py").write_text(
        "raise SystemExit('an edit of today')"
    )
    told = []
    done = reproduce("toy@1", project, told.append, "prepare")
    assert (done.verdict, done.first) == ("identical", None)
    assert (done.stages, done.files, done.metrics) == (["prepare", "finetune"], 4, 2)
    assert "finetune: running" in told
    assert not (project / ".dvc" / "cache").exists(), "the clone has a cache of its own"
    assert list((project / ".instar" / "reproduce").iterdir()) == []
    tags = tags_of(project)
    assert (tags["reproduced"], tags["reproduced_scope"]) == ("identical", "prepare, finetune")
    assert "cpu" in tags["reproduced_on"] and tags["reproduced_at"].endswith("Z")


def test_stages_before_the_chosen_one_are_pulled_not_computed(project):
    shutil.rmtree(project / ".dvc" / "cache")
    done = reproduce("toy@1", project, print, record=False, keep=project.parent / "kept")
    assert (done.verdict, done.stages) == ("identical", ["finetune"])
    assert done.notes == ["from the DVC remote: outputs of prepare"]
    assert (project.parent / "kept" / WEIGHTS).is_file()
    assert "reproduced" not in tags_of(project)


def test_other_code_is_told_by_the_first_file_and_number_that_differ(project):
    change_the_tagged_commit(
        project, "tasks/stages/finetune.py", "weights of {arm}", "weighty {arm}"
    )
    change_the_tagged_commit(project, "tasks/stages/finetune.py", "seen / 10", "seen / 20")
    shutil.rmtree(project / ".dvc" / "cache")
    done = reproduce("toy@1", project, print)
    assert done.verdict == "differs"
    first, *_, last = done.differences
    assert (first.stage, first.kind) == ("finetune", "file")
    assert first.name == "artifacts/finetune/classifiers/pretrained-0.safetensors"
    assert first.before != first.now
    assert (last.kind, last.name, last.before, last.now) == ("metric", "accuracy", 0.6, 0.3)
    assert tags_of(project)["reproduced_difference"] == f"finetune: {first.name}"


@pytest.mark.parametrize(
    ("device", "accuracy", "verdict"),
    [
        ("cpu", 0.605, "differs"),
        ("another machine", 0.605, "within tolerance"),
        ("another machine", 0.65, "differs"),
    ],
)
def test_tolerance_is_for_other_machines_only(project, device, accuracy, verdict):
    tag_version(project, "device", device)
    tell_mlflow(project, accuracy=accuracy)
    done = reproduce("toy@1", project, print)
    assert (done.verdict, done.first.name) == (verdict, "accuracy")


def test_nothing_is_within_tolerance_where_no_number_was_compared(project):
    change_the_tagged_commit(
        project, "tasks/stages/finetune.py", "weights of {arm}", "weighty {arm}"
    )
    tag_version(project, "device", "another machine")
    client = connect(uri(project))
    (child,) = client.search_runs(["1"], f"tags.`{STAGE}` = 'finetune'")
    client.delete_run(child.info.run_id)
    done = reproduce("toy@1", project, print)
    assert (done.verdict, done.metrics) == ("differs", 0)
    assert "MLflow has lost the run of finetune, so its numbers were not compared" in done.notes


def drop_tag(root):
    git(root, "tag", "--delete", "instar/toy/v1")


def name_another_commit(root):
    tag_version(root, "git_commit", "f" * 40)


def remove_remote(root):
    shutil.rmtree(root / ".instar" / "remote")


def unset_remote(root):
    dvc(root, "remote", "default", "--unset")


def empty_remote(root):
    remove_remote(root)
    (root / ".instar" / "remote").mkdir()


def damage_remote(root):
    for file in (root / ".instar" / "remote" / "files").rglob("*"):
        if file.is_file() and "PIXELS" in file.read_text():
            file.chmod(0o644)
            file.write_text("PIXELZ")


def close_remote(root):
    dvc(root, "remote", "add", "-d", "far", "s3://bucket/place")
    dvc(root, "remote", "modify", "far", "endpointurl", "http://127.0.0.1:9")


def forget_a_module(root):
    change_the_tagged_commit(
        root, "tasks/stages/finetune.py", "import json", "import tasks.new, json"
    )


def change_the_lock(root):
    change_the_tagged_commit(root, "dvc.lock", "schema:", "# a remark\nschema:")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_tag, r"no git tag instar/toy/v1 names the commit.*git fetch --tags"),
        (name_another_commit, r"another repository.*no commit ffffffffffff.*git fetch --tags"),
        (remove_remote, r"the folder of the DVC remote, .*/\.instar/remote, is not there"),
        (unset_remote, r"no DVC remote is set.*dvc remote add -d"),
        (empty_remote, r"remote lacks what instar/toy/v1 needs.*artifacts/prepare/store.*dvc push"),
        (damage_remote, r"lacks.*or holds it damaged: artifacts/prepare/store"),
        pytest.param(
            close_remote,
            r"does not give.*failed to connect to s3.*keys are right",
            marks=pytest.mark.slow,  # DVC tries for long
        ),
        (forget_a_module, r"lacks tasks\.new, which stage finetune needs.*never added to git"),
        (change_the_lock, r"dvc\.lock at instar/toy/v1 is not the one"),
    ],
)
def test_what_cannot_be_tried_is_said_in_a_sentence_with_its_remedy(
    project, spoil, said, monkeypatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    spoil(project)
    with pytest.raises(TaskError, match=said):
        reproduce("toy@1", project, print)
    assert "reproduced" not in tags_of(project)
    assert not list((project / ".instar").glob("reproduce/*"))


def test_an_unknown_stage_is_refused_with_those_there_are(project):
    with pytest.raises(TaskError, match=r"no stage 'train': it has prepare, finetune"):
        reproduce("toy@1", project, print, "train")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_clone_and_no_child_is_left_by_a_command_that_was_ended(project, number):
    change_the_tagged_commit(
        project, "tasks/stages/finetune.py", "time.sleep(0)", "time.sleep(600)"
    )
    code = "from tasks.reproduction.reproduce import reproduce; reproduce('toy@1', '.', print)"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=project, env=environment)
    places = project / ".instar" / "reproduce"
    try:
        wait_until(lambda: list(places.glob("*/.instar/began")))
        (place,) = (found for found in places.iterdir() if found.is_dir())
        command.send_signal(number)
        command.wait(60)
        if number == signal.SIGKILL:
            wait_until(lambda: is_free(sign_of_life(place)))
            assert place.is_dir()
            with pytest.raises(TaskError, match="no stage 'train'"):
                reproduce("toy@1", project, print, "train")
        assert not place.exists()
        wait_until(lambda: not working_in(place))
    finally:
        command.kill()
        command.wait()


def working_in(place):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process] if str(place) in os.readlink(process / "cwd") else []
        except OSError:
            continue
    return found


def wait_until(happens, seconds=60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
