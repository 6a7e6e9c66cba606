"""New data start one run: Prefect server, worker, the deployment `watch`, a real retraining."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.tiny_project import copy_project, dvc, git, instar, prefect
from tests.e2e.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(done, tmp_path: Path) -> Path:
    """After a run, with its data in DVC, as a user's own are."""
    root = copy_project(done[0], tmp_path / "project")
    git(root, "rm", "-q", "--cached", "digits.npz")
    dvc(root, "add", "-q", "digits.npz")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "data into DVC")
    return root


def test_new_data_start_one_run_that_learns_from_them(project):
    with Worker(project) as worker:
        planned = instar(project, "watch", "--cron", "* * * * *", "--settle", "0")
        assert planned.returncode == 0, planned.stdout + planned.stderr
        assert planned.stdout.startswith("watch/data looks at '* * * * *' (UTC)")
        before = git(project, "status", "--porcelain"), (project / "digits.npz.dvc").read_text()
        look(project)
        worker.reach("nothing changed, and that was not said", lambda: unchanged(worker))
        add_images(project / "digits.npz")
        look(project)
        worker.reach("new data started no run", lambda: "Retrained" in worker.states())
        seen = unchanged(worker)
        look(project)
        worker.reach("the run's data count as new", lambda: unchanged(worker) > seen)
        worker.reach("no look was fired by the schedule", lambda: fired(project))
        shown = prefect(project, "artifact", "ls")

    assert worker.states().count("Retrained") == 1
    _, second = git(project, "tag", "--list", "instar/tiny/*").split()
    assert git(project, "show", f"{second}:digits.npz.dvc") != before[1]
    # The user's own checkout is as it was.
    assert before == (
        git(project, "status", "--porcelain"),
        (project / "digits.npz.dvc").read_text(),
    )
    assert len(list((project / ".instar" / "journal").glob("prepare-*"))) == 2, "one run each"
    assert {"data-changes", "drift"} <= set(shown.split())
    looked = instar(project, "watch", "--once", "--json")
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["changed"] is False


def look(project):
    """Have the deployment look now: the schedule would do so within the minute."""
    prefect(project, "deployment", "run", "watch/data")


def unchanged(worker):
    return worker.states().count("Unchanged")


def fired(project):
    """Runs of the schedule that are done."""
    ended = prefect(project, "flow-run", "ls", "--state-type", "COMPLETED", "-o", "json")
    return [run for run in json.loads(ended) if run["auto_scheduled"]]


def add_images(path):
    with np.load(path) as kept:
        arrays = dict(kept)
    more = 255 - arrays["train_images"][:40]
    arrays["train_images"] = np.concatenate([arrays["train_images"], more])
    arrays["train_labels"] = np.concatenate([arrays["train_labels"], arrays["train_labels"][:40]])
    fresh = path.with_suffix(".new.npz")
    np.savez(fresh, **arrays)
    os.replace(fresh, path)
