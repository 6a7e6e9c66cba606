"""MLflow's own UI on a database."""

import urllib.request
from pathlib import Path

import pytest

from flows.orchestration.servers import start_mlflow_ui, wait_for
from tasks.tracking.client import connect

pytestmark = pytest.mark.slow


def test_ui_shows_the_database_and_no_argument_names_it(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    connect(store).create_experiment("mine", artifact_location=str(tmp_path))
    leash, address = start_mlflow_ui(tmp_path, store)
    with leash:
        wait_for(leash, f"{address}/health", "MLflow", tmp_path / ".instar/logs/mlflow-ui.log")
        arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        found = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=mine"
        with urllib.request.urlopen(found) as reply:
            assert reply.status == 200
    assert any(str(tmp_path / "mlartifacts").encode() in command for command in arguments)
    assert not any(store.encode() in command for command in arguments)
