"""New data start one run: Prefect server, worker, the deployment `watch`, real retrainings."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.tiny_project import dvc, environment, git, instar, make_tiny_project, prefect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With its data in DVC, as a user's own are."""
    root = make_tiny_project(tmp_path / "project")
    git(root, "rm", "-q", "--cached", "digits.npz")
    dvc(root, "add", "-q", "digits.npz")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "data into DVC")
    return root


def test_new_data_start_one_run_that_learns_from_them(project):
    planned = instar(project, "watch", "--cron", "* * * * *", "--settle", "0")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert planned.stdout.startswith("watch/data looks at '* * * * *' (UTC)")
    worker = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "worker"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def reach(what, happened):
        deadline = time.monotonic() + 600
        while not happened():
            assert worker.poll() is None, "the worker ended: " + _log(project)[-4000:]
            assert time.monotonic() < deadline, f"{what}: " + _log(project)[-4000:]
            time.sleep(2)

    try:
        # Asked of git: Prefect's server takes its time to start.
        reach("the first data started no run", lambda: "v1" in git(project, "tag"))
        reach("nothing changed, and that was not said", lambda: "Unchanged" in states(project))
        before = git(project, "status", "--porcelain"), (project / "digits.npz.dvc").read_text()
        add_images(project / "digits.npz")
        reach("new data started no run", lambda: states(project).count("Retrained") == 2)
        seen = states(project).count("Unchanged")
        reach("the run's data count as new", lambda: states(project).count("Unchanged") > seen)
        shown = prefect(project, "artifact", "ls")
    finally:
        os.killpg(worker.pid, signal.SIGINT)
        worker.wait(timeout=60)

    first, second = git(project, "tag", "--list", "instar/tiny/*").split()
    assert _data_of(project, second) != _data_of(project, first)
    # The user's own checkout is as it was.
    assert (
        git(project, "status", "--porcelain"),
        (project / "digits.npz.dvc").read_text(),
    ) == before
    assert len(list((project / ".instar" / "journal").glob("prepare-*"))) == 2, "one run each"
    assert {"data-changes", "drift"} <= set(shown.split())
    looked = instar(project, "watch", "--once", "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["changed"] is False


def add_images(path):
    with np.load(path) as kept:
        arrays = dict(kept)
    more = 255 - arrays["train_images"][:40]
    arrays["train_images"] = np.concatenate([arrays["train_images"], more])
    arrays["train_labels"] = np.concatenate([arrays["train_labels"], arrays["train_labels"][:40]])
    fresh = path.with_suffix(".new.npz")
    np.savez(fresh, **arrays)
    os.replace(fresh, path)


def states(project):
    """In which states flow runs ended, by name; `prefect flow-run ls` shows only their types."""
    return re.findall(r"Finished in state (\w+)", _log(project))


def _data_of(project: Path, commit: str) -> str:
    return git(project, "show", f"{commit}:digits.npz.dvc")


def _log(project: Path) -> str:
    path = project / ".instar" / "logs" / "worker.log"
    return path.read_text() if path.exists() else "(no worker.log)"
