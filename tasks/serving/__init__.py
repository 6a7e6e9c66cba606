"""Serving: a classifier as a model of MLflow, which names this package as its loader."""

from __future__ import annotations

from pathlib import Path

from tasks.serving.model import ServedModel, load_served_model


def _load_pyfunc(data_path: str) -> ServedModel:
    return load_served_model(Path(data_path))
