"""A schedule really fires: Prefect server, process worker, and a registered version at the end."""

import json
from pathlib import Path

import pytest

from tasks.settings.editing import change_settings
from tests.e2e.tiny_project import git, instar, make_tiny_project, prefect
from tests.e2e.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_tiny_project(tmp_path / "project")


def test_schedule_fires_waits_skips_what_did_not_change_and_runs_what_was_varied(project):
    change_settings(project, ["gate.approval=human"])
    git(project, "commit", "-q", "-a", "-m", "a human decides")
    planned = instar(project, "schedule", "--cron", "* * * * *")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    created, times, following = planned.stdout.splitlines()
    assert created.startswith("retrain/scheduled runs at '* * * * *' (UTC)")
    assert times.startswith("Fires next: ") and times.endswith("(UTC)")
    assert following.startswith("Next: instar worker")
    assert planned.stderr == ""
    with Worker(project) as worker:
        worker.reach("nothing was registered", lambda: "v1" in versions(project))
        paused = ("flow-run", "ls", "--state-type", "PAUSED", "-o", "json")
        worker.reach("nothing waits", lambda: json.loads(prefect(project, *paused)))
        assert "tiny version 1: waiting" in verdicts(project)
        assert not limited(project), "a pause of minutes would end the run"
        approved = instar(project, "promote", "tiny@1", "--approve", "--reason", "fine")
        worker.reach("it waits on", lambda: "tiny version 1: promoted" in verdicts(project))
        worker.reach("nothing was skipped", lambda: "Skipped" in worker.states())
        prefect(project, "deploy", "--all")
        assert not limited(project)
        prefect(project, "deployment", "schedule", "pause", "--all")
        prefect(project, "deployment", "run", "retrain/on-demand", "-p", "label_fraction=0.2",
                "-p", "draws=3", "-p", "settings=[\"gate.max_class_drop=1.0\"]")  # fmt: skip
        worker.reach("the varied run did not register", lambda: "v2" in versions(project))
        shown = prefect(project, "artifact", "ls")
        limits = prefect(project, "global-concurrency-limit", "ls")

    assert "tiny version 1 is in Production now." in approved.stdout, approved.stderr
    assert approved.stdout.endswith("The flow run that waited goes on.\n")
    settings = git(project, "show", "instar/tiny/v2:params.yaml")
    assert "label_fraction: 0.2" in settings and "draws: 3" in settings
    assert "max_class_drop: 1.0" in settings
    assert "instar-tiny" in limits and {"stages", "accuracy", "verdict"} <= set(shown.split())
    assert "dvc.lock" in git(project, "ls-tree", "--name-only", "instar/tiny/v1").split()
    assert len(list((project / ".instar" / "journal").glob("pretrain-*"))) == 1, "trained once"
    # It worked apart: the checkout itself has no artifacts and no edits.
    assert not (project / "artifacts").exists()
    assert git(project, "status", "--porcelain") == ""


def versions(project):
    return git(project, "tag", "--list", "instar/tiny/*").replace("instar/tiny/", "").split()


def verdicts(project):
    return prefect(project, "artifact", "inspect", "verdict")


def limited(project):
    known = json.loads(prefect(project, "deployment", "ls", "-o", "json"))
    assert known
    return [found["name"] for found in known if found["global_concurrency_limit"]]
