"""Model versions by the names that people write: `NAME@3`, `NAME@production`, `NAME@champion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import TaskError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def find_version(client: MlflowClient, reference: str) -> ModelVersion:
    """The model version that a reference names.

    Args:
        client: MLflow.
        reference: `NAME@VERSION`, where VERSION is a number or an alias, in whatever case.

    Raises:
        TaskError: There is none; the message lists what there is.
        MlflowException: MLflow's trouble; see `client.explained`.
    """
    from mlflow.exceptions import MlflowException

    name, at, which = reference.rpartition("@")
    if not at or not name or not which:
        raise TaskError(
            f"{reference!r} names no model version: write NAME@3 or NAME@production "
            f"(known models: {_listed(_names(client))})."
        )
    try:
        if which.isdecimal():
            return client.get_model_version(name, which)
        return client.get_model_version_by_alias(name, which.lower())
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    names = _names(client)
    if name not in names:
        raise TaskError(f"MLflow has no model {name!r}: it has {_listed(names)}.")
    found = client.search_model_versions(f"name = '{name}'")
    numbers = sorted(str(version.version) for version in found)
    aliases = sorted(client.get_registered_model(name).aliases)
    raise TaskError(f"model {name} has no {which}: it has {_listed([*numbers, *aliases])}.")


def _names(client: MlflowClient) -> list[str]:
    return [model.name for model in client.search_registered_models()]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none yet (`instar run` registers the first)"
