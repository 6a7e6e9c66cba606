"""The model that MLflow serves: images or paths in; labels, confidence and probabilities out.

The logged model is data and source code: weights (safetensors), a description (JSON) and the code
rooms that rebuild the classifier from them. No pickle is written or read. This very file is part of
it: MLflow calls `_load_pyfunc` of this package with the folder of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.serving.model_input import as_images

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from models.learners.classifier import Classifier

# What a model's folder holds.
DESCRIPTION, WEIGHTS = "classifier.json", "classifier.safetensors"
# Of tasks/, what a model brings along.
CODE = (
    "__init__.py",
    "errors.py",
    "serving/__init__.py",
    "serving/model.py",
    "serving/model_input.py",
)
# Images decoded at once: bounds the memory for a long list of paths, whatever their size.
BATCH, BATCH_BYTES = 512, 64 << 20
# Of a path that cannot be read, so many letters are shown.
LONGEST_NAME = 200


class ServedModel:
    """A classifier with its class names, as `mlflow.pyfunc.load_model` gives it.

    Attributes:
        abstention: Below which confidence it abstains; see `tasks.stages.abstention`. Versions made
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


def load_served_model(folder: Path) -> ServedModel:
    """The model in a folder as `log_served_model` leaves it, built by the code that is installed.

    Raises:
        ModelError: The weights are of another model.
    """
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return build_served_model(description, folder / WEIGHTS)
