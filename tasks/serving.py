"""The model that MLflow serves: images or paths in; labels, confidence and probabilities out.

The logged model is data and source code: weights (safetensors), a description (JSON) and the code
rooms that rebuild the classifier from them. No pickle is written or read. This very file is part of
it: MLflow calls `_load_pyfunc` with the folder of the weights.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.model_input import as_images

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

    from models.learners.classifier import Classifier

FINETUNE = Path("artifacts/finetune")
# Chosen before any test label is seen.
ARM, DRAW = "pretrained", 0
# What a model's folder holds.
DESCRIPTION, WEIGHTS = "classifier.json", "classifier.safetensors"
# Of tasks/, what a model brings along.
CODE = ("__init__.py", "errors.py", "model_input.py", "serving.py")
# Images decoded at once: bounds the memory for a long list of paths, whatever their size.
BATCH, BATCH_BYTES = 512, 64 << 20
# Of a path that cannot be read, so many letters are shown.
LONGEST_NAME = 200


class ServedModel:
    """A classifier with its class names, as `mlflow.pyfunc.load_model` gives it.

    Attributes:
        abstention: Below which confidence it abstains; see `tasks.calibration`. Versions made
            before there was such a thing have none and never abstain.
    """

    def __init__(
        self,
        classifier: Classifier,
        classes: Sequence[str],
        size: int,
        channels: int,
        abstention: Mapping[str, Any] | None = None,
    ):
        self.classifier = classifier
        self.classes = list(classes)
        self.size = size
        self.channels = channels
        self.abstention = abstention

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classifies images of any number and size.

        Args:
            model_input: Array (N, H, W) or (N, H, W, C) of pixels (uint8, or floats in [0, 1]);
                or a list of images, each an array, a path, a file's content as bytes, or a Pillow
                image; or a DataFrame with a column ``path``, or a column ``image`` of encoded
                images (bytes, or base64 as JSON needs it), also as a list of such rows. Every
                image is brought to the training size as it was for training.
            params: ``{"embedding": True}`` adds the encoder's features.

        Returns:
            One row an image: ``label`` (null where the model abstains), ``guess`` (its best class
            all the same), ``confidence``, ``abstained``, ``prob_<class>`` for each class and, if
            asked for, ``embedding`` (a list of D numbers).

        Raises:
            DataError: The input is neither or can be read in two ways, or an image cannot be read;
                it is named.
        """
        import pandas as pd

        # So dark on the whole are images of values 0 and 1 alone.
        dark = float(self.classifier.encoder.mean.max()) < 1 / 255
        source = as_images(model_input, self.size, self.channels, dark)
        embedding = bool((params or {}).get("embedding"))
        parts = [
            self.classify(self._canvases(source[start : start + self.most], start), embedding)
            for start in range(0, max(1, len(source)), self.most)
        ]
        return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)

    @property
    def most(self) -> int:
        """How many images are to be classified at once."""
        from data.store.shards import images_within

        return min(BATCH, images_within(BATCH_BYTES, self.size, self.channels))

    def classify(self, canvases: np.ndarray, embedding: bool = False) -> dict[str, Any]:
        """The columns of `predict` for images of the training size.

        Args:
            canvases: uint8 (N, size, size, C), as `data.images.reading.to_canvas` makes them.
            embedding: Whether to add the encoder's features.
        """
        import numpy as np
        import torch

        from models.encoders.features import extract_features

        batch = torch.from_numpy(canvases)
        probabilities = self.classifier.predict_proba(batch).numpy()
        guess = [self.classes[best] for best in probabilities.argmax(axis=1)]
        confidence = probabilities.max(axis=1, initial=0)
        abstained = self._too_low(confidence)
        columns: dict[str, Any] = {
            "label": np.array(
                [None if out else name for name, out in zip(guess, abstained, strict=True)], object
            ),
            "guess": np.array(guess, object),
            "confidence": confidence,
            "abstained": abstained,
        }
        for position, name in enumerate(self.classes):
            columns[f"prob_{name}"] = probabilities[:, position]
        if embedding:
            columns["embedding"] = extract_features(self.classifier.encoder, batch).tolist()
        return columns

    def _too_low(self, confidence: np.ndarray) -> np.ndarray:
        import numpy as np

        if self.abstention is None:
            return np.zeros(len(confidence), bool)
        threshold = self.abstention["threshold"]
        # Null: so few labels promise the target of no confidence.
        return np.ones(len(confidence), bool) if threshold is None else confidence < threshold

    def _canvases(self, batch: np.ndarray | list[Any], first: int) -> np.ndarray:
        """Images or files as the packed store would hold them: uint8 (N, size, size, C)."""
        import numpy as np

        from data.errors import DataError
        from data.images.reading import to_canvas

        canvases = []
        for position, item in enumerate(batch, start=first):
            try:
                canvases.append(to_canvas(_opened(item), self.size, self.channels))
            # ValueError: a path with a zero in it.
            except (DataError, OSError, ValueError) as error:
                name = item[:LONGEST_NAME] if isinstance(item, str) else f"image {position}"
                said = getattr(error, "strerror", None) or error
                raise DataError(f"{name}: {said}") from error
        if not canvases:
            return np.empty((0, self.size, self.size, self.channels), np.uint8)
        return np.stack(canvases)


def _opened(item: Any) -> Any:
    """A file or its content as the image that `prepare` would read; pixels as they are."""
    import numpy as np

    from data.files import read_file
    from data.images.reading import decode, load_image

    if isinstance(item, np.ndarray):
        return item
    if isinstance(item, str):
        return decode(read_file(Path(item)), item)
    return decode(item) if isinstance(item, bytes) else load_image(item)


def build_served_model(description: dict[str, Any], weights: Path) -> ServedModel:
    """Rebuilds the classifier.

    Args:
        description: What finetune's learners.json says: classes, size, channels, mean, std,
            encoder, learner, and abstention where it has one.
        weights: A safetensors file of a classifier.

    Raises:
        ModelError: The weights are of another model.
    """
    import torch
    from pydantic import TypeAdapter

    from models.encoders.images.encoder import build_encoder
    from models.encoders.params import EncoderParams
    from models.encoders.weights import load_weights
    from models.learners import LearnerParams, build_classifier

    encoder = build_encoder(
        EncoderParams.model_validate(description["encoder"]),
        description["channels"],
        description["size"],
        description["mean"],
        description["std"],
    )
    classes = description["classes"]
    learner = TypeAdapter(LearnerParams).validate_python(description["learner"])
    classifier = build_classifier(learner, encoder, len(classes))
    load_weights(classifier, weights)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    shape = description["size"], description["channels"]
    return ServedModel(classifier, classes, *shape, description.get("abstention"))


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


def load_served_model(folder: Path) -> ServedModel:
    """The model in a folder as `log_served_model` leaves it, built by the code that is installed.

    Raises:
        ModelError: The weights are of another model.
    """
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return build_served_model(description, folder / WEIGHTS)


def _load_pyfunc(data_path: str) -> ServedModel:
    return load_served_model(Path(data_path))


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
