"""Writing the packed pixels: numbered ``.npy`` files of a fixed number of images each."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.store.shards import file_sha256, images_within

# One shard is buffered while it is filled, so this bounds the memory that packing takes.
SHARD_BYTES = 64 << 20


def images_per_shard(size: int, channels: int) -> int:
    """How many images a shard holds; all but the last are full."""
    return images_within(SHARD_BYTES, size, channels)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"images-{number:05d}.npy"


class ShardWriter:
    """Appends images (size, size, channels) uint8 to the shards in `folder`."""

    def __init__(self, folder: Path, size: int, channels: int, expected: int):
        self._folder = folder
        self._expected_bytes = expected * size * size * channels
        room = max(1, min(expected, images_per_shard(size, channels)))
        self._buffer = np.empty((room, size, size, channels), np.uint8)
        self._filled = 0
        self.shards: list[dict[str, str | int]] = []

    def append(self, pixels: np.ndarray) -> None:
        """Add one image."""
        self._buffer[self._filled] = pixels
        self._filled += 1
        if self._filled == len(self._buffer):
            self.flush()

    def flush(self) -> None:
        """Write what is buffered; call once more after the last image.

        Raises:
            DataError: The disk is full.
        """
        if not self._filled:
            return
        path = self._folder / shard_name(len(self.shards))
        try:
            np.save(path, self._buffer[: self._filled], allow_pickle=False)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise disk_full(self._folder, self._expected_bytes) from error
        self.shards.append({"name": path.name, "images": self._filled, "sha256": file_sha256(path)})
        self._filled = 0


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        DataError: Fewer than `needed` bytes are free where `folder` lies.
    """
    if shutil.disk_usage(folder).free < needed:
        raise disk_full(folder, needed)


def disk_full(folder: Path, needed: int) -> DataError:
    """The error that says how much room is lacking, and where."""
    free = shutil.disk_usage(folder).free
    return DataError(
        f"the disk is full: packing into {os.path.relpath(folder)} needs {needed} bytes "
        f"({needed / 1e9:.2f} GB), {free} are free; make room there or lower data.size."
    )
