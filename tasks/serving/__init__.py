"""Serving: a classifier as a model of MLflow, which names this package as its loader."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.serving.model import ServedModel, load_served_model

HOME = str(Path(__file__).parents[2])


def _load_pyfunc(data_path: str) -> ServedModel:
    # MLflow puts the code that a version was saved with first, but a process that had imported
    # this package keeps it. The other packages must then be of the same age.
    sys.path.insert(0, HOME)
    try:
        import data  # noqa: F401
        import models  # noqa: F401

        return load_served_model(Path(data_path))
    finally:
        sys.path.remove(HOME)
