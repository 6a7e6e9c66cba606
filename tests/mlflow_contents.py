"""What MLflow holds of a project, against the journals, settings and files that it came from."""

from pathlib import Path

from tasks.tracking.client import connect
from tasks.tracking.journal import journal_path, read_journal
from tasks.tracking.metrics import metric_name
from tasks.tracking.run_records import NOT_PUBLISHED


def assert_whole(root, address, name="tiny"):
    """Each stage's run holds all of its points, once each, its settings and its files.

    For a project with one run, whose journals tell of one computation each.
    """
    client = connect(address)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    stages = {run.data.tags["stage"]: run for run in runs if "stage" in run.data.tags}
    assert set(stages) == {"prepare", "pretrain", "finetune", "evaluate"}
    assert len(runs) == 5, "the flow's run and one for each stage"
    for stage, run in stages.items():
        assert run.info.status == "FINISHED"
        events, _ = read_journal(journal_path(root, stage, run.data.tags["stage_key"]))
        assert points(client, run, events) == journaled(events)
        group = "data." if stage == "prepare" else f"{stage}."
        assert run.data.params and all(key.startswith(group) for key in run.data.params)
        there = Path(client.download_artifacts(run.info.run_id, ""))
        assert contents(there) == contents(root / "artifacts" / stage)


def journaled(events):
    """Every point of a journal."""
    told = [event for event in events if event["event"] == "metrics"]
    return sorted(
        (metric_name(key), event["step"], value)
        for event in told
        for key, value in event["values"].items()
    )


def points(client, run, events):
    """Every point that MLflow has under the journal's names."""
    return sorted(
        (key, point.step, point.value)
        for key in {key for key, _, _ in journaled(events)}
        for point in client.get_metric_history(run.info.run_id, key)
    )


def contents(folder):
    """All files by name, without what is not for MLflow."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.relative_to(folder).parts[0] not in NOT_PUBLISHED
    }
