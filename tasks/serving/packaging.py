"""Logging a classifier as an MLflow model: weights, description and code."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.serving.model import CODE, DESCRIPTION, WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature


FINETUNE = Path("artifacts/finetune")
# Chosen before any test label is seen.
ARM, DRAW = "pretrained", 0


def log_served_model(client: MlflowClient, run: str, root: Path, name: str) -> str:
    """Logs the chosen classifier of a checkout's artifacts as a model of an MLflow run.

    MLflow has no client call for this and its fluent one uses a global tracking URI, so the steps
    of `mlflow.models.Model.log` are taken one by one with this client.

    Returns:
        The id of MLflow's logged model.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    description = json.loads((root / FINETUNE / "learners.json").read_text(encoding="utf-8"))
    experiment = client.get_run(run).info.experiment_id
    logged = client.create_logged_model(experiment, name=name, source_run_id=run)
    metadata = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=run,
        model_id=logged.model_id,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="instar-model-") as scratch, _unadvised():
            code = _copy_code(root, Path(scratch) / "code")
            mlflow.pyfunc.save_model(
                str(Path(scratch) / "model"),
                loader_module="tasks.serving",
                data_path=str(_copy_weights(root, description, Path(scratch) / "classifier")),
                code_paths=[str(room) for room in code],
                mlflow_model=metadata,
                signature=served_signature(description["classes"]),
                pip_requirements=requirements(description["encoder"]["name"]),
            )
            client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    return logged.model_id


def served_signature(classes: Sequence[str]) -> ModelSignature:
    """What MLflow shows and checks: any array or paths in, one row of answers an image out.

    Found by trying MLflow 3.17: of its schemas only an unnamed tensor of objects of shape (-1,)
    lets arrays of any rank and size and tables of paths through, and it still refuses a list of
    paths. So enforcement of the input is left to `ServedModel.predict`, as MLflow itself does for
    models whose signature comes from type hints.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label", required=False),
        ColSpec(DataType.string, "guess"),
        ColSpec(DataType.float, "confidence"),
        ColSpec(DataType.boolean, "abstained"),
    ]
    outputs += [ColSpec(DataType.float, f"prob_{name}") for name in classes]
    outputs += [ColSpec(Array(DataType.float), "embedding", required=False)]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("embedding", DataType.boolean, False)]),
    )
    signature._is_signature_from_type_hint = True
    return signature


def requirements(encoder: str) -> list[str]:
    """Just what `predict` needs, at the versions that are installed here."""
    needed = ["mlflow", "torch", "safetensors", "pillow", "pandas", "numpy", "pydantic"]
    if encoder != "resnet_tiny":
        needed.append("timm")
    # A build such as 2.14.1+cpu is on no public index.
    return [f"{package}=={version(package).split('+')[0]}" for package in needed]


@contextlib.contextmanager
def _unadvised() -> Iterator[None]:
    """MLflow urges an input example on every model; ours takes inputs that no example covers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
        yield


def _copy_weights(root: Path, description: dict[str, Any], target: Path) -> Path:
    target.mkdir()
    chosen = next(fit for fit in description["arms"][ARM] if fit["draw"] == DRAW)
    shutil.copyfile(root / FINETUNE / chosen["weights"], target / WEIGHTS)
    needed = ("classes", "size", "channels", "mean", "std", "encoder", "learner")
    kept = {name: description[name] for name in needed}
    kept["abstention"] = description.get("abstention")
    (target / DESCRIPTION).write_text(json.dumps(kept, indent=2), encoding="utf-8")
    return target


def _copy_code(root: Path, target: Path) -> list[Path]:
    """Copies the source of what `predict` imports; never the raw data that lies in a room."""
    for source in _sources(root):
        copy = target / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    return sorted(target.iterdir())


def _sources(root: Path) -> Iterator[Path]:
    for room in ("models", "data"):
        for source in sorted((root / room).rglob("*.py")):
            if not source.is_relative_to(root / "data" / "raw"):
                yield source
    yield from (root / "tasks" / name for name in CODE)
