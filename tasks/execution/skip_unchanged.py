"""Whether a run would only repeat a former one: the same code, settings and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.settings.data_path import dvc_file_of
from tasks.settings.project_files import read_yaml
from tasks.system.hashing import content_hash, digest
from tasks.tracking.run_records import RunRecord, ended_runs
from tasks.versioning.stage_key import outside_inputs

if TYPE_CHECKING:
    from mlflow import MlflowClient


def source_key(root: Path) -> str:
    """One hash over all that a whole run starts from, asked before there are any outputs.

    Data that DVC tracks count by what their `.dvc` file says, so that they need not be read.
    """
    tracked = {name: dvc_file_of(Path(name), root) for name in outside_inputs(root)}
    contents = {name: content_hash(root, str(file or name)) for name, file in tracked.items()}
    settings = [read_yaml(root / name) for name in ("params.yaml", "dvc.yaml")]
    return digest(json.dumps([settings, contents], sort_keys=True, default=str).encode())[:16]


def repeated_run(source: str, home: Path, client: MlflowClient) -> RunRecord | None:
    """The last run from the very same source whose model MLflow has and the gate has judged.

    Raises:
        MlflowException: MLflow's trouble; see `client.explained`.
    """
    from mlflow.exceptions import MlflowException

    same = [record for _, record in ended_runs(home) if record.source == source]
    for record in reversed(same):
        try:
            client.get_model_version(*record.version.rsplit("@", 1))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            return record
    return None
