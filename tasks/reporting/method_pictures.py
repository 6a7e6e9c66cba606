"""What a method made of some images, on its way from `pretrain` to the report: one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def write_rows(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Write rows of pictures, the same bytes for the same rows.

    Args:
        path: Of the file, `.npz`.
        rows: (N, C, H, W) in [0, 1] by their captions.
    """
    pictures = [(row.permute(0, 2, 3, 1) * 255).round().byte().numpy() for row in rows.values()]
    # NumPy gives every member of the archive one and the same date, and calls them arr_0 and so on.
    np.savez_compressed(path, np.array([*rows], dtype=np.str_), *pictures)


def read_rows(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Read rows of pictures, uint8 (N, H, W, C) by their captions; none if the file is missing."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        captions = file["arr_0"].tolist()
        return {caption: file[f"arr_{number}"] for number, caption in enumerate(captions, 1)}
