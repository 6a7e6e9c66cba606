"""`instar export`: a version's weights in a folder, for use elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.serving.export import TOLERANCE, export_classifier, export_encoder
from tasks.serving.export_readme import CLASSIFIER
from tasks.serving.loading import loaded
from tasks.serving.model import DESCRIPTION

# Endings of files: a folder called so would be taken for one.
FILES = {".bin", ".gz", ".json", ".onnx", ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".zip"}


def export_version(reference: str, folder: Path, onnx: bool) -> dict[str, Any]:
    """Write a version's encoder, and its classifier if asked for, as plain JSON.

    Raises:
        TaskError: The version is not to be had, the folder is not empty or called like a file, or
            what was written does not give the model's own answers.
    """
    if folder.suffix.lower() in FILES:
        raise TaskError(
            f"--to: {folder} would be a folder; name it as one, without {folder.suffix}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TaskError(f"--to: {folder} is not an empty folder; name another.")
    with loaded(reference) as version:
        folder.mkdir(parents=True, exist_ok=True)
        described = json.loads((version.folder / DESCRIPTION).read_text(encoding="utf-8"))
        # First what may fail: the folder is then as empty as another try wants it.
        difference = export_classifier(version.model, folder / CLASSIFIER) if onnx else None
        config = export_encoder(version.model, described["encoder"], folder)
    return {
        "model": version.version,
        "folder": str(folder),
        "files": sorted(path.name for path in folder.iterdir()),
        "architecture": config["architecture"],
        "onnx_difference": difference,
        "tolerance": TOLERANCE,
    }


def show(result: dict[str, Any]) -> str:
    """What was written, in a few lines."""
    lines = [
        f"{result['model']} ({result['architecture']}) in {result['folder']}: "
        f"{', '.join(result['files'])}"
    ]
    if result["onnx_difference"] is not None:
        lines.append(
            f"ONNX against torch: they differ by at most {result['onnx_difference']:.1e} "
            f"(allowed: {result['tolerance']:.0e})."
        )
    return "\n".join([*lines, "How to load it: README.md there."])
