"""What a person may leave out of `NAME@VERSION`: the checkout's own model is meant then."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.errors import TaskError
from tasks.registry.aliases import PLACES, SECOND_ALIASES
from tasks.settings.loading import load_params

PRODUCTION = "production"
_PLACES = (*PLACES, *SECOND_ALIASES.values())


def model_named(name: str | None, root: Path) -> str:
    """The registered model that is meant: the given one, else `register.name` of the checkout.

    Raises:
        TaskError: None is given, and `root` is not a checkout.
    """
    if name:
        return name
    if (root / "params.yaml").is_file():
        return load_params(root / "params.yaml").register_.name
    known = _known_models(root)
    has = f" (MLflow has {', '.join(known)})" if known else ""
    raise TaskError(
        "no model is named, and there is no params.yaml here whose register.name would be meant: "
        f"name one{has}, or go to your checkout."
    )


def version_named(typed: str | None, root: Path, default: str | None = PRODUCTION) -> str:
    """What was typed as a whole reference, `NAME@VERSION`.

    `@3`, `3` and `@production` are versions of the checkout's own model; `NAME` alone, and nothing
    at all, are its version `default`.

    Args:
        typed: What a person wrote.
        root: The checkout, if it is one.
        default: The version that is meant where none is given; None where one must be.

    Raises:
        TaskError: It lacks what cannot be completed.
    """
    typed = typed or ""
    if "@" in typed:
        name, _, version = typed.rpartition("@")
        return f"{model_named(name, root)}@{version}"
    if typed.isdecimal():
        return f"{model_named(None, root)}@{typed}"
    if typed.lower() in _PLACES:
        raise TaskError(f"{typed!r} is a place, not a model: write @{typed}, or NAME@{typed}.")
    if default is None:
        raise TaskError(
            f"{typed!r} names no version: write {typed or 'NAME'}@3, or 3 alone for version 3 of "
            "this checkout's model."
        )
    return f"{model_named(typed, root)}@{default}"


def _known_models(root: Path) -> list[str]:
    """The models of the MLflow that is named here, if one is and answers."""
    from tasks.tracking.client import explained, tracking_uri_of

    # A folder without a database gets none for being asked.
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (root / "mlflow.db").exists():
        return []
    try:
        with explained(tracking_uri_of(root)) as client:
            return sorted(model.name for model in client.search_registered_models())
    except TaskError:
        return []
