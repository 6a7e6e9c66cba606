"""A schedule really fires: Prefect server, process worker, and a registered version at the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.tiny_project import environment, git, instar, make_tiny_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_tiny_project(tmp_path / "project")


def test_cron_deployment_fires_and_registers_a_version(project):
    planned = instar(project, "schedule", "--cron", "* * * * *")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    created, following = planned.stdout.splitlines()
    assert created.startswith("retrain/scheduled runs at '* * * * *' (UTC)")
    assert following.startswith("Next: instar worker")
    assert planned.stderr == ""
    worker = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "worker"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 1200
        while not git(project, "tag", "--list", "instar/tiny/v1"):
            assert worker.poll() is None, "the worker ended: " + _log(project)
            assert time.monotonic() < deadline, "nothing was registered: " + _log(project)
            time.sleep(2)
    finally:
        os.killpg(worker.pid, signal.SIGINT)
        worker.wait(timeout=60)

    run = git(project, "for-each-ref", "--format=%(refname:short)", "refs/heads/runs").split()[0]
    assert "dvc.lock" in git(project, "ls-tree", "--name-only", run).split()
    # It worked apart: the checkout itself has no artifacts and no edits.
    assert not (project / "artifacts").exists()
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cron", "every night"], "is not a cron line"),
        (["--cron", "0 3 * * *", "--timezone", "Moon/Base"], "is not a time zone"),
    ],
)
def test_schedule_that_makes_no_sense_is_explained(project, arguments, expected):
    ended = instar(project, "schedule", *arguments)
    assert ended.returncode == 1
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def _log(project: Path) -> str:
    path = project / ".instar" / "logs" / "worker.log"
    return path.read_text()[-4000:] if path.exists() else "(no worker.log)"
