"""The few things Instar says to MLflow, each with an explicit client and explicit run ids.

One experiment per project, a parent run per flow run, a child run per stage. Everything here may be
said twice without harm, and raises what MLflow raises: the publisher decides what an outage means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tasks.errors import TaskError
from tasks.system.redaction import shown
from tasks.tracking.client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

# Tags by which runs are found again.
FLOW_RUN = "instar.run_id"
STAGE = "stage"
STAGE_KEY = "stage_key"
PARENT = "mlflow.parentRunId"

# MLflow's own limits on one request and on a dataset's digest.
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
DIGEST_LENGTH = 36


def artifacts_of(root: str | Path) -> str:
    """Where MLflow keeps the artifacts of a checkout's own database.

    It decodes a path as it decodes a URL: `feature%2Flabels` would become `feature/labels`.
    """
    place = Path(root).resolve() / "mlartifacts"
    return place.as_uri() if "%" in str(place) else str(place)


def run_page(tracking_uri: str, run: str) -> str | None:
    """The address of a run's page; None where no server shows one."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    experiment = connect(tracking_uri).get_run(run).info.experiment_id
    return f"{shown(tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def ensure_experiment(client: MlflowClient, name: str, root: str | Path) -> str:
    """The project's experiment; with a local database its artifacts lie beside it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        local = not client.tracking_uri.startswith(("http://", "https://"))
        place = artifacts_of(root) if local else None
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException:
            # Another run may have made it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if _decoded(found.artifact_location):
        raise TaskError(
            f"the experiment {name!r} keeps its files at {unquote(found.artifact_location)}, not "
            "in this checkout: an earlier Instar did not quote the % of its path. Move mlflow.db "
            "away; `instar sync --all` then brings its runs and versions into a new one."
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _decoded(place: str) -> bool:
    """Whether MLflow takes a local path for another one."""
    return place.startswith("/") and unquote(place) != place


def find_run(
    client: MlflowClient, experiment: str, tags: Mapping[str, str], status: str | None = None
) -> Run | None:
    """The newest run that has all these tags (and this status)."""
    wanted = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    if status:
        wanted.append(f"attributes.status = '{status}'")
    found = client.search_runs(
        [experiment], " and ".join(wanted), max_results=1, order_by=["attributes.start_time DESC"]
    )
    return found[0] if found else None


def knows(client: MlflowClient, run: str) -> bool:
    """Whether there is a run of this id."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def ensure_parent(client: MlflowClient, experiment: str, run_id: str, began: int) -> str:
    """The MLflow run of the flow run ``run_id``, which began at ``began`` (Unix ms)."""
    found = find_run(client, experiment, {FLOW_RUN: run_id})
    if found is None:
        tags = {FLOW_RUN: run_id, "mlflow.source.name": "instar", "mlflow.source.type": "LOCAL"}
        found = client.create_run(experiment, start_time=began, tags=tags, run_name=run_id)
    return found.info.run_id


def ensure_child(
    client: MlflowClient, experiment: str, parent: str, stage: str, key: str, began: int
) -> str:
    """The run of a stage below its flow run."""
    tags = {STAGE: stage, STAGE_KEY: key, PARENT: parent}
    found = find_run(client, experiment, tags)
    if found is None:
        found = client.create_run(experiment, start_time=began, tags=tags, run_name=stage)
    elif found.info.status != "RUNNING":
        # A retry of a stage that failed in this flow run.
        client.update_run(found.info.run_id, status="RUNNING")
    return found.info.run_id


def log_metrics(client: MlflowClient, run: str, metrics: Iterable[Metric]) -> None:
    """Sends metrics in batches of the size MLflow takes."""
    metrics = list(metrics)
    for start in range(0, len(metrics), METRICS_A_BATCH):
        client.log_batch(run, metrics=metrics[start : start + METRICS_A_BATCH])


def log_params(client: MlflowClient, run: str, params: Mapping[str, Any]) -> None:
    """Sends flattened settings; those that the run has already are left as they are."""
    from mlflow.entities import Param

    there = client.get_run(run).data.params
    new = [Param(name, str(value)) for name, value in params.items() if name not in there]
    for start in range(0, len(new), PARAMS_A_BATCH):
        client.log_batch(run, params=new[start : start + PARAMS_A_BATCH])


def log_dataset(client: MlflowClient, run: str, name: str, digest: str, images: int) -> None:
    """Links the run to the packed store (MLflow keeps 36 characters of the digest; a tag, all)."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"path": "artifacts/prepare/store", "digest": digest})
    dataset = Dataset(
        name=name,
        digest=digest[:DIGEST_LENGTH],
        source_type="dvc",
        source=source,
        profile=json.dumps({"num_rows": images}),
    )
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run, [DatasetInput(dataset, [context])])
    client.set_tag(run, "data_version", digest)


def log_folder(client: MlflowClient, run: str, folder: Path) -> None:
    """Uploads what a stage left, as it lies: curves, plots, report, weights."""
    if folder.is_dir():
        client.log_artifacts(run, str(folder))
