"""What a run could not push or register is done later, from its own commit."""

import shutil
import subprocess
import sys

import pytest

from tasks.errors import TaskError
from tasks.operations.backlog import settle_debts
from tasks.operations.registry_rebuild import rebuild_versions
from tasks.registry import transitions
from tasks.registry.promotion_log import promotions
from tasks.registry.registration import judged_version
from tasks.registry.tags import WEIGHTS
from tasks.system.hashing import hash_file
from tasks.tracking.client import connect
from tasks.tracking.publisher import Publisher, sync
from tasks.versioning import dvc_remote
from tasks.versioning.git import snapshot_commit
from tasks.versioning.stage_key import made_by_stages
from tests.tasks.conftest import git, uri, write_artifacts
from tests.tasks.promotion.test_gate import measure_on_new_test_set

PIPELINE = """\
stages:
  prepare:
    cmd: x
    outs: [artifacts/prepare/store, artifacts/prepare/summary.json]
  pretrain:
    cmd: x
    outs: [artifacts/pretrain/history.csv, artifacts/pretrain/metrics.json]
  finetune:
    cmd: x
    outs: [artifacts/finetune/classifiers, artifacts/finetune/learners.json]
  evaluate:
    cmd: x
    outs: [artifacts/evaluate/metrics.json, artifacts/evaluate/predictions.parquet]
"""
STAGES = ("prepare", "pretrain", "finetune", "evaluate")


@pytest.fixture
def tracked(project, monkeypatch):
    """The project with its artifacts in DVC, and a remote that cannot be written."""
    monkeypatch.setattr(dvc_remote, "PUSH_PAUSES", ())
    dvc(project, "init", "-q")
    dvc(project, "config", "core.analytics", "false")
    dvc(project, "remote", "add", "-q", "-d", "away", str(project.parent / "remote"))
    (project.parent / "remote").write_text("a file, where there should be a folder")
    (project / "dvc.yaml").write_text(PIPELINE)
    (project / "dvc.lock").unlink()
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "into DVC")
    return project


def mend(root):
    (root.parent / "remote").unlink()


def dvc(root, *arguments):
    subprocess.run([sys.executable, "-P", "-m", "dvc", *arguments], cwd=root, check=True)


def run_that_could_not_push(root, run_id, measure=None, **how):
    """As `tasks.execution.retraining_run` leaves it; returns the hash of its weights."""
    write_artifacts(root, **how)
    if measure:
        measure(root)
    dvc(root, "commit", "-q", "-f")
    with Publisher(root, run_id, uri(root)) as publisher:
        for stage in STAGES:
            publisher.stage(stage, f"{stage}-{run_id}", "ran")
        publisher.owe(snapshot_commit(root, run_id), ["push", "register"])
        assert publisher.close(timeout=60), publisher.notice
    return hash_file(root / WEIGHTS)


def test_a_queued_run_is_pushed_and_registered_from_its_commit_whatever_came_since(tracked):
    first = run_that_could_not_push(tracked, "run-1")
    second = run_that_could_not_push(tracked, "run-2", seed=1, right=119)
    left = settle_debts(tracked, uri(tracked))
    assert set(left.left) == {"run-1", "run-2"} and not left.registered
    assert all("dvc push failed" in reason for reason in left.left.values())
    mend(tracked)
    (tracked / "params.yaml").write_text("broken: [")
    shutil.rmtree(tracked / "artifacts")
    settled = settle_debts(tracked, uri(tracked))
    assert settled.left == {}
    assert settled.pushed == ["run-1", "run-2"]
    assert settled.registered == {
        "run-1": "tiny version 1: promoted",
        "run-2": "tiny version 2: promoted",
    }
    client = connect(uri(tracked))
    for version, weights in (("1", first), ("2", second)):
        tags = client.get_model_version("tiny", version).tags
        assert tags["weights"] == weights
        assert tags["run_id"] == f"run-{version}"
        assert git(tracked, "rev-parse", f"instar/tiny/v{version}") == tags["git_commit"]
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == "2"
    assert settle_debts(tracked, uri(tracked)) == type(settled)()
    assert git(tracked, "worktree", "list").count("\n") == 0, "no worktree is left"


def test_a_version_that_was_judged_meanwhile_is_not_judged_again(tracked):
    run_that_could_not_push(tracked, "run-1")
    run_that_could_not_push(tracked, "run-2")
    mend(tracked)
    settled = settle_debts(tracked, uri(tracked))
    assert settled.registered == {"run-1": "tiny version 1: promoted"}
    assert settled.left == {}
    assert judged_version(tracked, uri(tracked)) == "1"
    assert [line["to"] for line in promotions(tracked)] == ["challenger", "champion"]


def test_a_champion_of_another_test_set_is_scored_on_that_of_the_queued_run(tracked):
    run_that_could_not_push(tracked, "run-1", seed=1)
    run_that_could_not_push(tracked, "run-2", seed=2, right=118, measure=measure_on_new_test_set)
    mend(tracked)
    shutil.rmtree(tracked / "artifacts")
    assert settle_debts(tracked, uri(tracked)).registered == {
        "run-1": "tiny version 1: promoted",
        "run-2": "tiny version 2: promoted",
    }


def test_versions_that_mlflow_lost_are_made_anew_where_they_stood(tracked, empty_database):
    run_that_could_not_push(tracked, "run-1")
    run_that_could_not_push(tracked, "run-2", seed=1, right=119)
    run_that_could_not_push(tracked, "run-3", seed=2, right=60)
    mend(tracked)
    settle_debts(tracked, uri(tracked))
    before, log = registry_of(tracked), promotions(tracked)
    assert before["3"][1] == "Staging"
    assert rebuild_versions(tracked, uri(tracked)) == [], "nothing is lost"
    shutil.copyfile(empty_database, tracked / "mlflow.db")
    shutil.rmtree(tracked / "artifacts")
    assert sync(tracked, uri(tracked), everything=True).left == {}
    assert rebuild_versions(tracked, uri(tracked)) == ["1", "2", "3"]
    assert registry_of(tracked) == before
    assert promotions(tracked) == log, "a rebuilt version is no move"


def test_a_rebuild_that_broke_off_is_taken_up(tracked, empty_database):
    run_that_could_not_push(tracked, "run-1")
    lost = hash_of_out(tracked, "artifacts/evaluate/predictions.parquet")
    run_that_could_not_push(tracked, "run-2", seed=1, right=119)
    second = hash_of_out(tracked, "artifacts/evaluate/predictions.parquet")
    mend(tracked)
    settle_debts(tracked, uri(tracked))
    before = registry_of(tracked)
    assert lost != second
    shutil.copyfile(empty_database, tracked / "mlflow.db")
    assert sync(tracked, uri(tracked), everything=True).left == {}
    cached = tracked / ".dvc" / "cache" / "files" / "md5" / second[:2] / second[2:]
    cached.rename(tracked / "aside")
    with pytest.raises(TaskError, match="not all in DVC's cache"):
        rebuild_versions(tracked, uri(tracked))
    (tracked / "aside").rename(cached)
    assert rebuild_versions(tracked, uri(tracked)) == ["2"]
    assert registry_of(tracked) == before


def test_a_run_whose_outputs_are_lost_is_neither_pushed_nor_in_the_way_of_others(tracked):
    run_that_could_not_push(tracked, "run-1")
    lost = hash_of_out(tracked, "artifacts/evaluate/predictions.parquet")
    run_that_could_not_push(tracked, "run-2", seed=1, right=119)
    mend(tracked)
    (tracked / ".dvc" / "cache" / "files" / "md5" / lost[:2] / lost[2:]).unlink()
    settled = settle_debts(tracked, uri(tracked))
    assert "not all in DVC's cache" in settled.left["run-1"]
    assert settled.pushed == ["run-2"]
    assert list(settled.registered) == ["run-2"]


def test_a_promotion_that_broke_off_is_made_up_for(tracked, monkeypatch):
    move = transitions.move

    def away(wanted, *others, **more):
        if wanted.to == "champion":
            raise TaskError("MLflow went away")
        move(wanted, *others, **more)

    run_that_could_not_push(tracked, "run-1")
    mend(tracked)
    monkeypatch.setattr(transitions, "move", away)
    assert "went away" in settle_debts(tracked, uri(tracked)).left["run-1"]
    monkeypatch.undo()
    settled = settle_debts(tracked, uri(tracked))
    assert settled.left == {}
    assert connect(uri(tracked)).get_registered_model("tiny").aliases["champion"] in ("1", 1)


def hash_of_out(root, path):
    return made_by_stages(root)[path]


def registry_of(root):
    """Lineage, stage and aliases of each version."""
    client = connect(uri(root))
    aliases = client.get_registered_model("tiny").aliases
    return {
        str(version.version): (
            {tag: value for tag, value in version.tags.items() if not tag.startswith("gate")},
            version.current_stage,
            sorted(alias for alias, held in aliases.items() if str(held) == str(version.version)),
        )
        for version in client.search_model_versions("name = 'tiny'")
    }


def test_a_run_that_goes_on_is_left_alone(tracked):
    mend(tracked)
    write_artifacts(tracked)
    dvc(tracked, "commit", "-q", "-f")
    with Publisher(tracked, "run-1", uri(tracked)) as publisher:
        publisher.owe(snapshot_commit(tracked, "run-1"), ["push", "register"])
        assert settle_debts(tracked, uri(tracked)).pushed == []
