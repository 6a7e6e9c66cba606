"""The object store goes away, or holds half of an object: real S3 on loopback, killed."""

import os
import random
import signal
import subprocess
import threading
import time

import pytest

from tasks.errors import TaskError
from tasks.execution.stage_runner import run_stage
from tasks.operations.server_checks import check_remote
from tasks.versioning import dvc_remote
from tasks.versioning.dvc import dvc_command, dvc_environment, run_dvc
from tasks.versioning.dvc_remote import fetch, push
from tests.servers import ObjectStore
from tests.tasks.toy_project import git, make_toy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ObjectStore(tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture
def project(tmp_path, store, monkeypatch):
    """A toy project whose stage has run and whose DVC remote is the object store."""
    for name, value in store.keys.items():
        monkeypatch.setenv(name, value)
    if store.process is None:
        store.start()
    root = make_toy_project(tmp_path / "project")
    use_store(root, store, tmp_path.name)
    git(root, "commit", "-q", "-a", "-m", "remote")
    return root


def use_store(root, store, name):
    (root / ".dvc" / "config").write_text(
        "[core]\n    remote = s3\n    analytics = false\n"
        "['remote \"s3\"']\n"
        f"    url = s3://{store.BUCKET}/{name}\n"
        f"    endpointurl = {store.address}\n    region = us-east-1\n"
    )


def compute(root, size=0):
    """Run the stage, on so many random bytes; commits dvc.lock, as a run does."""
    if size:
        (root / "input.txt").write_text(random.Random(1).randbytes(size // 2).hex())
    outcome = run_stage("copy", root)
    git(root, "add", "-f", "dvc.lock", "input.txt")
    git(root, "commit", "-q", "--allow-empty", "-m", "run")
    return outcome


def clone(root, place):
    git(root.parent, "clone", "-q", str(root), str(place))
    return place


@pytest.mark.faults
def test_a_second_clone_restores_what_was_pushed(project, tmp_path):
    compute(project)
    push(project)
    other = clone(project, tmp_path / "other")
    assert fetch(other) == "fetched"
    assert run_stage("copy", other).status == "cached"
    assert (other / "output.txt").read_text() == "HELLO"


def test_a_truncated_object_is_never_taken_for_the_whole_one(project, store, tmp_path):
    compute(project, size=100_000)
    push(project)
    (key,) = [key for key, size in store.objects(tmp_path.name).items() if size == 100_000]
    store.truncate(key)
    other = clone(project, tmp_path / "other")
    fetch(other)
    assert run_stage("copy", other).status == "ran"
    assert (other / "output.txt").read_bytes() == (project / "output.txt").read_bytes()


@pytest.mark.faults
def test_a_store_that_is_down_is_explained_with_the_remedy_after_retries(
    project, store, monkeypatch
):
    monkeypatch.setattr(dvc_remote, "PUSH_PAUSES", (0.1,))
    compute(project)
    store.kill()
    with pytest.raises(TaskError, match=r"failed 2 times.*connect.*instar sync"):
        push(project)
    assert "not all could be fetched (unexpected error - Could not connect" in fetch(project)
    found = check_remote(project)
    assert not found.well and "does not answer" in found.found
    store.start()
    assert check_remote(project).well
    push(project)


@pytest.mark.faults
def test_a_store_that_comes_back_during_the_retries_gets_the_push(project, store, monkeypatch):
    monkeypatch.setattr(dvc_remote, "PUSH_PAUSES", (20.0, 30.0))
    compute(project)
    store.kill()
    # Later than DVC's own patience, of some ten seconds.
    back = threading.Timer(25.0, store.launch)
    back.start()
    push(project)
    back.join()
    assert "are in sync" in run_dvc(["status", "--cloud"], project).stdout


@pytest.mark.faults
def test_wrong_keys_are_named_by_the_doctor(project, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = check_remote(project)
    assert not found.well and "403" in found.found and "keys" in str(found.remedy)


@pytest.mark.faults
@pytest.mark.parametrize("trial", range(10))
def test_a_push_killed_midway_leaves_whole_objects_or_none(project, store, tmp_path, trial):
    compute(project, size=60_000_000)
    pushing = subprocess.Popen(
        dvc_command(["push", "--run-cache"]),
        cwd=project,
        env=dvc_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # The address of the object is all that another clone sees; the upload takes about a second.
    time.sleep(random.Random(trial).uniform(1.0, 6.0))
    os.killpg(pushing.pid, signal.SIGKILL)
    pushing.wait()
    assert set(store.objects(f"{tmp_path.name}/files").values()) <= {60_000_000}
    other = clone(project, tmp_path / "other")
    fetch(other)
    run_stage("copy", other)
    assert (other / "output.txt").read_bytes() == (project / "output.txt").read_bytes()
    push(project)
    assert list(store.objects(f"{tmp_path.name}/files").values()) == [60_000_000]


@pytest.mark.faults
@pytest.mark.parametrize("trial", range(3))
def test_a_store_killed_during_a_push_gets_all_of_it_once_it_is_back(
    project, store, tmp_path, trial, monkeypatch
):
    monkeypatch.setattr(dvc_remote, "PUSH_PAUSES", ())
    compute(project, size=60_000_000)
    pushing = subprocess.Popen(
        dvc_command(["push", "--run-cache"]), cwd=project, env=dvc_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(random.Random(trial).uniform(1.0, 5.0))
    store.kill()
    pushing.wait(timeout=300)
    store.start()
    push(project)
    other = clone(project, tmp_path / "other")
    assert fetch(other) == "fetched"
    assert run_stage("copy", other).status == "cached"
    assert (other / "output.txt").read_bytes() == (project / "output.txt").read_bytes()
