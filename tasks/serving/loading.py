"""A registered version's model, brought here from wherever MLflow keeps it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import TaskError
from tasks.serving.model import DESCRIPTION, WEIGHTS, load_served_model
from tasks.system import redaction
from tasks.system.hashing import hash_file
from tasks.tracking import client as tracking_client
from tasks.tracking.client import explained
from tasks.tracking.model_versions import find_version

if TYPE_CHECKING:
    from tasks.serving.model import ServedModel

# Where MLflow puts the folder that `log_served_model` names data_path.
DATA = Path("data") / "classifier"


@dataclass(frozen=True)
class Loaded:
    """A model and which version it is.

    Attributes:
        version: As `NAME@3`, whatever the reference was.
        key: Changes with its weights or its description.
        folder: With both, as files; only while `loaded` lasts.
    """

    model: ServedModel
    version: str
    key: str
    folder: Path


@contextmanager
def loaded(reference: str, tracking_uri: str | None = None) -> Iterator[Loaded]:
    """The model that a reference (`NAME@production`, `NAME@3`) names, until the block ends.

    Raises:
        TaskError: MLflow is not named, does not answer or has no such version; or its files are
            not those that were registered.
    """
    uri = tracking_uri or _known_uri()
    with tempfile.TemporaryDirectory(prefix="instar-version-") as scratch:
        with explained(uri) as client:
            found = find_version(client, reference)
            version = f"{found.name}@{found.version}"
            folder = (
                download(
                    client.get_model_version_download_uri(found.name, found.version),
                    Path(scratch),
                    uri,
                    version,
                )
                / DATA
            )
        foreign = TaskError(
            f"{version} is not a model of Instar's, or its files are not all there and whole: see "
            "its artifacts in MLflow, or use another version."
        )
        if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
            raise foreign
        weights = hash_file(folder / WEIGHTS)
        if found.tags.get("weights", weights) != weights:
            raise TaskError(
                f"the weights of {version} in MLflow's store are not those that were registered: "
                "restore them there, or use another version."
            )
        described = hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest()
        try:
            model = load_served_model(folder)
        except (ValueError, LookupError, TypeError):  # the description is cut short, or another's
            raise foreign from None
        yield Loaded(model, version, f"{version} {weights} {described}", folder)


def _known_uri() -> str:
    """MLflow's address; a folder without a database gets none for being asked."""
    if os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").exists():
        return tracking_client.tracking_uri_of()
    raise TaskError(
        "MLflow is not known here: set MLFLOW_TRACKING_URI to your server's address, or go to the "
        "checkout that made the model."
    )


def download(source: str, scratch: Path, uri: str, version: str) -> Path:
    """Bring the files of a version here.

    Args:
        source: Where MLflow keeps them.
        scratch: A folder to put them into.
        uri: MLflow's address.
        version: Its name, for the error.

    Returns:
        The folder with them.

    Raises:
        TaskError: The store does not give them.
        MlflowException: MLflow's trouble; see `client.explained`.
    """
    # MLflow's own bars would stand between the lines.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(
            download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri)
        )
    except MlflowException:
        raise
    # By the kind of store: OSError, botocore's and requests' own.
    except Exception as error:
        said = redaction.shown(" ".join(str(error).split()))[:200]
        raise TaskError(
            f"the files of {version} cannot be fetched ({said}); check the store behind MLflow "
            "and its AWS_* variables, then try again."
        ) from None
