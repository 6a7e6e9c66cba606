"""Servers that go away under a whole run, and runs that are killed: what is left, what is mended.

Whole runs of the real project on small images, with real servers, killed by SIGKILL.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.orchestration.crashed_runs import mark_dead_runs
from flows.orchestration.servers import PrefectServer, prefect_environment
from tasks.tracking.client import connect
from tests.e2e.tiny_project import dvc, environment, git, instar, make_tiny_project
from tests.mlflow_contents import assert_whole
from tests.servers import ObjectStore, mlflow_server, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_tiny_project(tmp_path / "project")


class Run:
    """`instar run` in the background."""

    def __init__(self, root, **more):
        self.root = root
        self.out = root.parent / "run.out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "run"],
                cwd=root,
                env={**environment(root), **more},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def reach(self, stage):
        """Returns once the stage has begun to compute."""
        wait_until(lambda: self.ended() or self.began(stage), 600)
        assert not self.ended(), self.said()

    def began(self, stage):
        return any((self.root / ".instar" / "journal").glob(f"{stage}-*.jsonl"))

    def ended(self):
        return self.process.poll() is not None

    def said(self):
        return self.out.read_text()

    def end(self):
        self.process.wait(timeout=900)
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()

    def servers(self):
        """Prefect's server of this run, with its keeper."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if {"prefect", "server"} <= set(child.cmdline())]


@pytest.fixture
def run(project):
    started = []

    def start(**more):
        started.append(Run(project, **more))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.mark.faults
def test_a_killed_run_is_marked_in_prefect_and_mlflow(project, run, monkeypatch):
    for name, value in prefect_environment(project).items():
        monkeypatch.setenv(name, value)  # `PrefectServer` sets them; here they must not stay
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    going = run()
    going.reach("pretrain")
    (record,) = (project / ".instar" / "runs").glob("*.json")
    with PrefectServer(project) as server:
        server.wait()
        assert flow_states() == {record.stem: "RUNNING"}
        assert mark_dead_runs(project) == [], "a run that lives is left alone"
        going.kill()
        told = instar(project, "doctor", "--json")
        result = json.loads(told.stdout)
        assert result["marked_as_crashed"] == [record.stem], told.stderr
        assert flow_states() == {record.stem: "CRASHED"}
        half_done = [left["what"] for left in result["left"] if left["kind"] == "half-done"]
        assert half_done == [f"run {record.stem} was killed"]
    assert instar(project, "sync").returncode == 0
    client = connect(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    statuses = {
        found.info.run_name: found.info.status for found in client.search_runs([experiment])
    }
    assert statuses.pop("prepare") == "FINISHED"
    assert statuses == {record.stem: "KILLED", "pretrain": "KILLED"}


def flow_states():
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {found.name: found.state.type.value for found in client.read_flow_runs()}


def test_prefects_server_killed_mid_run_costs_nothing_that_was_computed(project, run):
    going = run()
    going.reach("pretrain")
    for process in going.servers():
        process.kill()
    status = going.end()
    said = going.said()
    assert "Prefect's server went away" in said
    assert "Traceback" not in said and "EventsWorker" not in said
    assert status == 0, said
    assert "Registered: tiny version 1" in said
    again = instar(project, "run", "--json")
    assert again.returncode == 0, again.stderr
    assert {stage["status"] for stage in json.loads(again.stdout)["stages"]} == {"cached"}


@pytest.fixture
def mlflow(tmp_path):
    """MLflow's server, not started yet."""
    server = mlflow_server(tmp_path / "mlflow.db", tmp_path / "served")
    yield server
    server.kill()


@pytest.mark.faults
def test_mlflow_that_comes_late_or_fails_amid_a_run_gets_all_of_it(project, run, mlflow):
    going = run(MLFLOW_TRACKING_URI=mlflow.address)
    going.reach("prepare")
    mlflow.launch()
    going.reach("finetune")
    mlflow.kill()
    going.reach("evaluate")
    mlflow.launch()
    status = going.end()
    wait_until(mlflow.answers)
    if status != 0:
        # It came back too late for the end of the run.
        assert "instar sync" in going.said()
        told = instar(project, "sync", MLFLOW_TRACKING_URI=mlflow.address)
        assert told.returncode == 0, told.stderr
    assert_whole(project, mlflow.address)
    assert git(project, "tag", "--list", "instar/tiny/v1") == "instar/tiny/v1"


@pytest.mark.faults
def test_mlflow_down_throughout_gets_all_by_sync_and_the_model_is_registered(project, run, mlflow):
    going = run(MLFLOW_TRACKING_URI=mlflow.address)
    assert going.end() == 1
    assert "instar sync" in going.said() and "Traceback" not in going.said()
    mlflow.start()
    told = instar(project, "sync", "--json", MLFLOW_TRACKING_URI=mlflow.address)
    result = json.loads(told.stdout)
    assert told.returncode == 0, told.stderr
    assert list(result["registered"].values()) == ["tiny version 1: promoted"]
    assert_whole(project, mlflow.address)


@pytest.mark.faults
def test_an_object_store_down_throughout_gets_all_by_sync_and_the_model_is_registered(
    project, run, tmp_path, monkeypatch
):
    store = ObjectStore(tmp_path / "weed")
    for name, value in store.keys.items():
        monkeypatch.setenv(name, value)
    config = project / ".dvc" / "config"
    config.write_text(
        "[core]\n    remote = s3\n    analytics = false\n    check_update = false\n"
        f"['remote \"s3\"']\n    url = s3://{store.BUCKET}/dvc\n"
        f"    endpointurl = {store.address}\n    region = us-east-1\n"
    )
    git(project, "commit", "-q", "-a", "-m", "object store")
    going = run()
    assert going.end() == 1
    assert "dvc push failed" in going.said() and "instar sync" in going.said()
    (left,) = json.loads(instar(project, "doctor", "--json").stdout)["left"]
    assert left["kind"] == "queued" and "waits to be pushed" in left["what"]
    shutil.rmtree(project / "artifacts")
    store.start()
    try:
        told = instar(project, "sync", "--json")
        assert told.returncode == 0, told.stderr
        result = json.loads(told.stdout)
        assert list(result["registered"].values()) == ["tiny version 1: promoted"]
        clone = tmp_path / "clone"
        git(tmp_path, "clone", "-q", str(project), str(clone))
        git(clone, "checkout", "-q", git(project, "rev-parse", "instar/tiny/v1^{commit}"))
        dvc(clone, "pull", "--run-cache")
        assert "Running stage" not in dvc(clone, "repro")
    finally:
        store.kill()
