import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.tracking.client import connect
from tasks.tracking.journal import Journal, journal_path
from tasks.tracking.metrics import metric_name, numbers
from tasks.tracking.publisher import Publisher, sync
from tests.mlflow_contents import assert_whole
from tests.servers import mlflow_server, wait_until
from tests.tasks.conftest import publish, uri, write_artifacts

DEAD = "http://127.0.0.1:9"


def write_journal(root, key="k1", stage="pretrain", epochs=range(1, 4), end="finished"):
    with Journal(journal_path(root, stage, key)) as journal:
        journal.start(stage, key, {})
        for epoch in epochs:
            journal.metrics({"loss": 1 / epoch, "knn": epoch / 10}, step=epoch)
        if end:
            journal.end(end)


def runs(root, where="", tracking_uri=None):
    client = connect(tracking_uri or uri(root))
    experiment = client.get_experiment_by_name("tiny")
    return client.search_runs([experiment.experiment_id], where) if experiment else []


def child(root, stage="pretrain", tracking_uri=None):
    (run,) = runs(root, f"tags.stage = '{stage}'", tracking_uri)
    return run


def history(root, run, name="loss", tracking_uri=None):
    points = connect(tracking_uri or uri(root)).get_metric_history(run.info.run_id, name)
    return sorted((point.step, round(point.value, 4)) for point in points)


CURVE = [(1, 1.0), (2, 0.5), (3, 0.3333)]


def test_a_flow_run_becomes_a_parent_with_a_child_for_each_stage(project):
    write_journal(project, "key-of-pretrain")
    publish(project, "run-1")
    (parent,) = runs(project, "tags.`instar.run_id` = 'run-1'")
    assert parent.info.run_name == "run-1"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["finetune.label_fraction"] == "0.05"
    assert parent.data.metrics["pretrained.accuracy.mean"] == pytest.approx(0.75)
    assert parent.data.metrics["gain.low"] == pytest.approx(0.02)
    children = runs(project, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.data.tags["stage"] for run in children) == [
        "evaluate", "finetune", "prepare", "pretrain",
    ]  # fmt: skip
    assert all(run.info.status == "FINISHED" for run in children)


def test_a_child_holds_curves_settings_data_numbers_and_files(project):
    write_journal(project, "key-of-pretrain")
    publish(project, "run-1")
    run, client = child(project), connect(uri(project))
    assert history(project, run) == CURVE
    assert run.data.params["pretrain.epochs"] == "2"
    assert not any(name.startswith("finetune") for name in run.data.params)
    assert run.data.metrics["rankme"] == 7
    assert run.data.tags["stage_key"] == "key-of-pretrain"
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == "d" * 36
    assert run.data.tags["data_version"] == "d" * 64

    def names(run, folder=None):
        return {file.path for file in client.list_artifacts(run.info.run_id, folder)}

    assert names(run) == {"history.csv", "metrics.json"}
    assert "classifiers/pretrained-0.safetensors" in names(
        child(project, "finetune"), "classifiers"
    )
    assert "report.html" in names(child(project, "evaluate"))
    assert names(child(project, "prepare")) == {"summary.json"}, "the packed data stay out"
    (parent,) = runs(project, "tags.`instar.run_id` = 'run-1'")
    assert "report.html" in names(parent)


def test_curves_are_live_while_the_stage_runs(project):
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        write_journal(project, epochs=[1], end=None)
        wait_until(lambda: runs(project, "tags.stage = 'pretrain'"))
        wait_until(lambda: history(project, child(project)) == CURVE[:1])
        assert child(project).info.status == "RUNNING"
        write_journal(project, epochs=[2, 3])
        publisher.stage("pretrain", "k1", "ran")
    assert history(project, child(project)) == CURVE


def test_a_cached_stage_makes_no_new_run_and_is_linked(project):
    write_journal(project)
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "ran")
    with Publisher(project, "run-2", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        publisher.stage("pretrain", "k1", "cached")
    run = child(project)
    (parent,) = runs(project, "tags.`instar.run_id` = 'run-2'")
    assert parent.data.tags["cached.pretrain"] == run.info.run_id


def test_a_run_that_waited_for_anothers_result_keeps_no_child_of_its_own(project):
    with Publisher(project, "run-2", uri(project)) as waiting:
        with Publisher(project, "run-1", uri(project)) as computing:
            for publisher in (computing, waiting):
                publisher.stage("pretrain", "k1", "running")
            write_journal(project)
            wait_until(lambda: len(runs(project, "tags.stage = 'pretrain'")) == 2)
            computing.stage("pretrain", "k1", "ran")
        waiting.stage("pretrain", "k1", "cached")
    run = child(project)
    (computed, waited) = (
        runs(project, f"tags.`instar.run_id` = '{name}'")[0] for name in ("run-1", "run-2")
    )
    assert run.data.tags["mlflow.parentRunId"] == computed.info.run_id
    assert waited.data.tags["cached.pretrain"] == run.info.run_id


@pytest.mark.parametrize("journal", [True, False])
def test_a_cached_stage_unknown_to_the_store_is_rebuilt(project, journal):
    if journal:
        write_journal(project)
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "cached")
    run = child(project)
    assert history(project, run) == (CURVE if journal else [(1, 2.5), (2, 1.5)])
    assert run.data.tags["rebuilt_from"] == ("journal" if journal else "artifacts")
    assert run.info.status == "FINISHED"


def test_a_resumed_stage_shows_one_whole_curve_without_doubles(project):
    write_journal(project, epochs=[1, 2], end=None)
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        write_journal(project, epochs=[2, 3])
        publisher.stage("pretrain", "k1", "ran")
    assert history(project, child(project)) == CURVE


def test_a_forced_rerun_shows_its_own_points_only(project):
    write_journal(project, epochs=[1, 2, 3, 4, 5])
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        write_journal(project)
        publisher.stage("pretrain", "k1", "ran")
    assert history(project, child(project)) == CURVE


def test_a_failed_stage_is_shown_as_failed_and_its_retry_as_finished(project):
    write_journal(project, epochs=[1, 2], end="failed")
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "failed")
        wait_until(lambda: runs(project, "attributes.status = 'FAILED'"))
        publisher.stage("pretrain", "k1", "running")
        write_journal(project, epochs=[3])
        publisher.stage("pretrain", "k1", "ran")
    assert child(project).info.status == "FINISHED"
    assert history(project, child(project)) == CURVE


def test_files_that_are_slow_to_set_aside_are_not_missed(project, monkeypatch):
    def on_another_disk(source, target):
        time.sleep(0.3)
        shutil.copyfile(source, target)

    monkeypatch.setattr("tasks.tracking.publisher.POLL_SECONDS", 0.02)
    monkeypatch.setattr("tasks.tracking.run_records._link_or_copy", on_another_disk)
    write_artifacts(project)
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        write_journal(project)
        wait_until(lambda: runs(project, "tags.stage = 'pretrain'"))
        wait_until(lambda: history(project, child(project)) == CURVE)
        time.sleep(0.3)
        publisher.stage("pretrain", "k1", "ran")
        assert publisher.close(timeout=60), publisher.notice
    listed = connect(uri(project)).list_artifacts(child(project).info.run_id)
    assert listed, "the stage's files did not arrive"


def test_an_exception_in_the_flow_fails_the_parent(project):
    publisher = Publisher(project, "run-1", uri(project))

    def flow():
        with publisher:
            publisher.stage("pretrain", "k1", "running")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        flow()
    (parent,) = runs(project)
    assert parent.info.status == "FAILED"


def test_a_dead_server_costs_the_caller_nothing_and_one_notice(project):
    notices = []
    publisher = Publisher(project, "run-1", DEAD, on_notice=notices.append)
    start = time.monotonic()
    publisher.stage("pretrain", "k1", "running")
    write_journal(project)
    publisher.stage("pretrain", "k1", "ran")
    assert time.monotonic() - start < 1
    wait_until(lambda: notices)
    assert publisher.close(timeout=20) is False
    assert len(notices) == 1
    assert "instar sync" in notices[0]


def test_sync_delivers_the_run_as_it_was_although_later_ones_overwrote_it(project):
    publisher = Publisher(project, "run-1", DEAD)
    write_journal(project)
    publisher.stage("pretrain", "k1", "ran")
    assert publisher.close(timeout=20) is False
    shutil.rmtree(project / "artifacts" / "pretrain")
    left = sync(project, DEAD)
    assert "instar sync" in left.left["run-1"]
    assert left.delivered == []
    assert sync(project, uri(project)).delivered == ["run-1"]
    assert history(project, child(project)) == CURVE
    assert child(project).data.metrics["rankme"] == 7
    assert sync(project, uri(project)).delivered == [], "nothing is delivered twice"
    assert len(runs(project)) == 2


def test_a_publisher_that_was_killed_is_taken_up_by_sync(project):
    code = (
        "import sys, os, time; from tasks.tracking.publisher import Publisher;"
        "p = Publisher(sys.argv[1], 'run-1', sys.argv[2]); p.stage('pretrain', 'k1', 'running');"
        "print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(project), uri(project)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    write_journal(project, epochs=[1, 2], end=None)
    wait_until(lambda: runs(project, "tags.stage = 'pretrain'"))
    assert sync(project, uri(project)).delivered == [], "a run in progress is left alone"
    process.kill()
    process.wait()
    assert sync(project, uri(project)).delivered == ["run-1"]
    assert {run.info.status for run in runs(project)} == {"KILLED"}
    assert history(project, child(project)) == CURVE[:2]


def test_two_processes_cannot_publish_one_run(project):
    with (
        Publisher(project, "run-1", uri(project)),
        pytest.raises(TaskError, match="another process"),
    ):
        Publisher(project, "run-1", uri(project))


def test_points_whose_arrival_was_not_noted_do_not_count_twice(project):
    write_journal(project)
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "ran")
    # As after a crash between MLflow's answer and ours being written down.
    path = project / ".instar" / "runs" / "run-1.json"
    record = json.loads(path.read_text())
    record["delivered"] = False
    record["stages"]["pretrain"] |= {"offset": None, "delivered": False}
    path.write_text(json.dumps(record))
    assert sync(project, uri(project)).delivered == ["run-1"]
    assert history(project, child(project)) == CURVE


PIPELINE = """\
stages:
  prepare: {cmd: x, outs: [artifacts/prepare/store, artifacts/prepare/summary.json]}
  pretrain: {cmd: x, outs: [artifacts/pretrain/history.csv, artifacts/pretrain/metrics.json]}
  finetune:
    cmd: x
    outs:
      - artifacts/finetune/classifiers
      - artifacts/finetune/history.csv
      - artifacts/finetune/learners.json
      - artifacts/finetune/metrics.json
  evaluate:
    cmd: x
    outs:
      - artifacts/evaluate/metrics.json
      - artifacts/evaluate/predictions.parquet
      - artifacts/evaluate/report.html
"""


def put_into_dvc(root):
    """DVC has the artifacts in its cache and dvc.lock, as after `dvc repro`."""
    if not (root / ".dvc").exists():
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
        (root / "dvc.yaml").write_text(PIPELINE)
        (root / "dvc.lock").unlink()
    command = [sys.executable, "-m", "dvc", "commit", "-q", "-f"]
    subprocess.run(command, cwd=root, check=True)


def everything(root):
    """All that a person sees of the project in MLflow, without ids."""
    client = connect(uri(root))
    seen = {}
    for run in runs(root):
        path = Path(run.info.artifact_uri)
        files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        curves = {
            name: sorted((p.step, p.timestamp, p.value) for p in points)
            for name in run.data.metrics
            for points in [client.get_metric_history(run.info.run_id, name)]
        }
        tags = {k: v for k, v in run.data.tags.items() if k in ("stage", "stage_key")}
        name = run.data.tags.get("instar.run_id") or parent_of(root, run)
        key = (name, run.data.tags.get("stage"))
        seen[key] = (run.info.status, run.data.params, tags, curves, files)
    return seen


def parent_of(root, run):
    parent = connect(uri(root)).get_run(run.data.tags["mlflow.parentRunId"])
    return parent.data.tags["instar.run_id"]


def test_a_wiped_database_is_rebuilt_with_every_run_from_journals_and_cache(
    project, empty_database
):
    put_into_dvc(project)
    write_journal(project, "key-of-pretrain")
    publish(project, "run-1")
    # A forced rerun: the same key and journal, another curve.
    with Publisher(project, "run-2", uri(project)) as publisher:
        publisher.stage("pretrain", "key-of-pretrain", "running")
        write_journal(project, "key-of-pretrain", epochs=range(1, 6))
        publisher.stage("pretrain", "key-of-pretrain", "ran")
    write_artifacts(project, seed=3)
    put_into_dvc(project)
    publish(project, "run-3", ("finetune", "evaluate"))
    before = everything(project)
    assert len(before) == 10
    assert before["run-1", "pretrain"][3]["loss"] != before["run-2", "pretrain"][3]["loss"]
    assert sync(project, uri(project), everything=True).delivered == [], "all is there already"
    shutil.copyfile(empty_database, project / "mlflow.db")
    shutil.rmtree(project / "mlartifacts")
    shutil.rmtree(project / "artifacts")
    assert sync(project, uri(project)).delivered == [], "what had been delivered is not looked at"
    assert sync(project, uri(project), everything=True).delivered == ["run-1", "run-2", "run-3"]
    assert everything(project) == before


def test_files_that_the_cache_lost_are_named_and_the_run_is_left(project, empty_database):
    put_into_dvc(project)
    publish(project, "run-1", ("pretrain",))
    shutil.copyfile(empty_database, project / "mlflow.db")
    shutil.rmtree(project / ".dvc" / "cache")
    result = sync(project, uri(project), everything=True)
    assert "dvc fetch --all-branches" in result.left["run-1"]


def test_a_database_wiped_while_a_run_goes_on_gets_all_of_the_run(project, empty_database):
    with Publisher(project, "run-1", uri(project)) as publisher:
        publisher.stage("prepare", "k0", "ran")
        publisher.stage("pretrain", "k1", "running")
        write_journal(project, epochs=[1, 2], end=None)
        wait_until(lambda: runs(project, "tags.stage = 'pretrain'"))
        wait_until(lambda: history(project, child(project)) == CURVE[:2])
        shutil.copyfile(empty_database, project / "mlflow.db")
        write_journal(project, epochs=[2, 3])
        publisher.stage("pretrain", "k1", "ran")
        # An open connection may not see that the file is another one.
        publisher.close(timeout=60)
    sync(project, uri(project), everything=True)
    assert history(project, child(project)) == CURVE
    assert child(project, "prepare").info.status == "FINISHED"


def test_a_killed_run_delivered_late_does_not_show_its_successors_points(project):
    code = (
        "import sys, time; from tasks.tracking.publisher import Publisher;"
        "p = Publisher(sys.argv[1], 'run-1', 'http://127.0.0.1:9');"
        "p.stage('pretrain', 'k1', 'running'); print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(project)], stdout=subprocess.PIPE)
    process.stdout.readline()
    write_journal(project, epochs=[1, 2], end=None)
    process.kill()
    process.wait()
    with Publisher(project, "run-2", uri(project)) as publisher:
        publisher.stage("pretrain", "k1", "running")
        write_journal(project, epochs=[3])
        publisher.stage("pretrain", "k1", "ran")
    shown = {
        run.info.status: history(project, run) for run in runs(project, "tags.stage = 'pretrain'")
    }
    # The next run brought the killed one, too, without `sync`.
    assert shown == {"KILLED": CURVE[:2], "FINISHED": CURVE}


def test_any_class_name_makes_a_name_that_mlflow_takes():
    assert metric_name("recall.T-shirt/top") == "recall.T-shirt/top"
    for name in ("recall.a/", "/a", "../a", "a//b", "café (new)"):
        assert "/" not in metric_name(name)
    tree = {"per_class": [{"recall": 0.5, "name": "a"}], "ok": True, "n": 2, "low": None}
    assert numbers(tree) == {"per_class.0.recall": 0.5, "n": 2.0}


@pytest.fixture
def server(project):
    """MLflow's server on the project's database, not started yet."""
    server = mlflow_server(project / "mlflow.db", project / "served")
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_killed_and_restarted_mid_run_loses_and_doubles_nothing(project, server):
    address = server.address
    server.start()
    with Publisher(project, "run-1", address) as publisher:
        publisher.stage("pretrain", "k1", "running")
        with Journal(journal_path(project, "pretrain", "k1")) as journal:
            journal.start("pretrain", "k1", {})
            for epoch in range(1, 301):
                journal.metrics({"loss": 1 / epoch}, step=epoch)
                if epoch == 100:
                    wait_until(lambda: runs(project, "tags.stage = 'pretrain'", address))
                    server.kill()
                if epoch == 200:
                    wait_until(lambda: publisher.notice)
                    server.start()
            journal.end("finished")
        publisher.stage("pretrain", "k1", "ran")
        assert publisher.close(timeout=90), publisher.notice
    run = child(project, tracking_uri=address)
    expected = [(epoch, round(1 / epoch, 4)) for epoch in range(1, 301)]
    assert history(project, run, tracking_uri=address) == expected
    assert len(runs(project, "", address)) == 2


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trial", range(8))
def test_outages_at_any_moment_leave_no_gap_and_no_double(project, server, trial):
    stages = ("prepare", "pretrain", "finetune", "evaluate")
    chance = random.Random(trial)
    moments = sorted(chance.sample(range(200), 4))
    if trial % 2:
        server.start()
    with Publisher(project, "run-1", server.address) as publisher:
        for position, stage in enumerate(stages):
            publisher.stage(stage, f"key-of-{stage}", "running")
            with Journal(journal_path(project, stage, f"key-of-{stage}")) as journal:
                journal.start(stage, f"key-of-{stage}", {})
                for step in range(50):
                    journal.metrics({"loss": chance.random(), "b/c": step}, step)
                    time.sleep(0.02)
                    if 50 * position + step in moments:
                        server.kill() if server.process else server.launch()
                journal.end("finished")
            publisher.stage(stage, f"key-of-{stage}", "ran")
        publisher.close(timeout=chance.choice([0.5, 5.0]))
        if server.process is None:
            server.launch()
        wait_until(server.answers)
    wait_until(lambda: not sync(project, server.address).left and is_delivered(project))
    assert_whole(project, server.address)


def is_delivered(root):
    return json.loads((root / ".instar" / "runs" / "run-1.json").read_text())["delivered"]
