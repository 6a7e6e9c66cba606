"""Whether what the settings name is there: asked before a run starts, not amid it."""

from __future__ import annotations

from pathlib import Path

from data.sources.params import DataParams
from tasks.errors import TaskError
from tasks.params import Params

# Sets whose images Instar finds itself; their `data.path` is a tracked file of checksums.
BUILT_IN = ("fashion-mnist", "cifar10")


def require_presence(params: Params, root: Path) -> None:
    """Refuse settings whose data or encoder nobody could find.

    Args:
        params: Settings that are valid as such.
        root: The checkout, from which `data.path` counts.

    Raises:
        TaskError: There is nothing at `data.path`, and no `.dvc` file that would bring it.
        ModelError: No such encoder; the nearest names are told.
    """
    _require_data(params.data, root)
    if params.pretrain.encoder.name != "resnet_tiny":
        from models.encoders.images.timm_network import (
            require_known,  # timm takes seconds to import
        )

        require_known(params.pretrain.encoder.name)


def dvc_file_of(path: Path, root: Path) -> Path | None:
    """The `.dvc` file, from `root`, that brings a path or a folder around it; None without one."""
    candidates = (Path(f"{place}.dvc") for place in (path, *path.parents))
    return next((file for file in candidates if (root / file).is_file()), None)


def _require_data(data: DataParams, root: Path) -> None:
    path = Path(data.path)
    if (root / path).exists() or dvc_file_of(path, root):
        return
    remedy = "put your images there first, or correct the path"
    if data.source in BUILT_IN:
        remedy = f"for {data.source} it is data/pinned/{data.source}.sha256"
    raise TaskError(f"data.path: there is no {path}; {remedy}.")
