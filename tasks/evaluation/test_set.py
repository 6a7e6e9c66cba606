"""The test set with its labels and features, read in chunks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.store.packed_store import PackedStore
from data.store.shards import images_within
from models.encoders.features import extract_features
from models.encoders.images.encoder import Encoder

# Images held in memory at once, whatever their number and size: so many, and so many bytes.
CHUNK, CHUNK_BYTES = 2048, 64 << 20


@dataclass(frozen=True)
class TestSet:
    """Rows of the store with the labels that only `evaluate` sees, all (N,).

    Attributes:
        contents: SHA-256 of each image's pixels.
        shape: Size and channels of the images.
    """

    rows: NDArray[np.int64]
    ids: list[str]
    labels: NDArray[np.int64]
    contents: list[str]
    shape: tuple[int, int]

    @classmethod
    def of(cls, store: PackedStore, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> TestSet:
        """Rows of a store, which knows everything of them but their labels."""
        ids, contents = (store.index[column].to_numpy()[rows] for column in ("id", "sha256"))
        shape = (store.manifest["size"], store.manifest["channels"])
        return cls(rows, ids.tolist(), labels, contents.tolist(), shape)

    @property
    def digest(self) -> str:
        """SHA-256 of ids, labels and pixels, whatever their order.

        The same test set, the same digest. Ids are made of names alone, and the hash of an image
        knows its bytes but not its shape.
        """
        rows = zip(self.ids, self.labels, self.contents, strict=True)
        lines = sorted(f"{i}\t{label}\t{content}\n" for i, label, content in rows)
        return hashlib.sha256(f"{self.shape}\n{''.join(lines)}".encode()).hexdigest()


def encode(encoder: Encoder, store: PackedStore, rows: NDArray[np.int64]) -> Tensor:
    """Features (N, D) of rows of the store, a chunk of images in memory at a time.

    The features themselves are all held: 4 D bytes an image, some 25 MB for 10,000 images of 576.
    """
    return torch.cat(
        [
            extract_features(encoder, torch.from_numpy(store.gather(part)))
            for part in chunks(store, rows)
        ]
    )


def chunks(store: PackedStore, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """`rows` cut into parts of which the images fit into memory at once."""
    shape = store.manifest["size"], store.manifest["channels"]
    most = min(CHUNK, images_within(CHUNK_BYTES, *shape))
    return [rows[start : start + most] for start in range(0, len(rows), most)]
