"""Small sets of images as users bring them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore


@pytest.fixture
def make_folder(tmp_path):
    """Makes ``<class>/<n>.png`` of distinct random images; returns the root."""

    def make(classes=("ant", "bee", "cow"), each=6, size=12, root="images") -> Path:
        random = np.random.default_rng(7)
        top = tmp_path / root
        for name in classes:
            (top / name).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(top / name / f"{number}.png")
        return top

    return make


@pytest.fixture
def pack_folder(tmp_path):
    """Packs a folder or archive and opens the store."""

    def run(path, name="out", **changes) -> PackedStore:
        settings = {"size": 8, "channels": 3, "test_fraction": 0.34, "max_quarantined": 1} | changes
        pack(DataParams(source="folder", path=str(path), **settings), tmp_path / name)
        return PackedStore.open(tmp_path / name / "store", verify=True)

    return run


@pytest.fixture(scope="session")
def numbered_store(tmp_path_factory) -> PackedStore:
    """90 training images, each of one value that tells its row apart, and 10 test images."""
    folder = tmp_path_factory.mktemp("numbered")
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 16, 16))
    labels = np.arange(100) % 5
    np.savez(
        folder / "set.npz",
        train_images=images[10:], train_labels=labels[10:],
        test_images=images[:10], test_labels=labels[:10],
    )  # fmt: skip
    params = DataParams(source="npz", path=str(folder / "set.npz"), size=16, channels=1)
    pack(params, folder / "out")
    return PackedStore.open(folder / "out" / "store")
