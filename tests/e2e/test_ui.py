"""`instar ui` on real servers, beside a run that uses the same Prefect server."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestration.servers import PrefectServer, answers, prefect_environment
from tests.e2e.tiny_project import environment, make_tiny_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_tiny_project(tmp_path / "project")


def test_ui_that_is_closed_leaves_prefect_to_a_run_that_uses_it(project, monkeypatch):
    for name, value in prefect_environment(project).items():
        monkeypatch.setenv(name, value)  # `PrefectServer` sets them; here they must not stay
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    ui = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        shown = "".join(ui.stdout.readline() for _ in range(3))
        mlflow, prefect = re.findall(r"http://[\d.:]+", shown)
        with PrefectServer(project) as server:
            assert server.ui == prefect
            assert answers(f"{mlflow}/health") and answers(f"{server.url}/health")
            ui.send_signal(signal.SIGINT)
            assert ui.wait(timeout=60) == 0
            assert not answers(f"{mlflow}/health")
            assert answers(f"{server.url}/health")
        assert not answers(f"{server.url}/health")
    finally:
        ui.kill()
        ui.wait()
        ui.stdout.close()
