"""The test set is known by what its images show, not by their names."""

import numpy as np
import pytest

from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from tasks.evaluation import test_set

LABELS = np.arange(20) % 2


def digest_of(folder, images, labels=LABELS, **how):
    folder.mkdir()
    np.savez(
        folder / "images.npz",
        train_images=np.arange(20 * 64, dtype=np.uint16).reshape(20, 8, 8).astype(np.uint8),
        train_labels=LABELS,
        test_images=images,
        test_labels=labels,
    )
    settings = {"size": 8, "channels": 1} | how
    pack(DataParams(source="npz", path=str(folder / "images.npz"), **settings), folder)
    store = PackedStore.open(folder / "store")
    return test_set.TestSet.of(store, store.rows("test"), labels).digest


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)


def test_the_same_names_with_other_pixels_are_another_test_set(tmp_path, images):
    first = digest_of(tmp_path / "a", images)
    assert digest_of(tmp_path / "b", images) == first
    images[3, 4, 4] ^= 1
    assert digest_of(tmp_path / "c", images) != first


def test_other_labels_and_other_shapes_are_another_test_set(tmp_path, images):
    digests = {
        digest_of(tmp_path / "a", images),
        digest_of(tmp_path / "b", images, labels=1 - LABELS),
        digest_of(tmp_path / "c", images, size=16),
        digest_of(tmp_path / "d", images, channels=3),
    }
    assert len(digests) == 4


def test_order_does_not_matter_and_the_shape_does_where_bytes_agree():
    def made(order, shape):
        rows = np.array(order)
        return test_set.TestSet(
            rows, [f"i{r}" for r in rows], rows, [f"c{r}" for r in rows], shape
        ).digest

    assert made([0, 1, 2], (8, 1)) == made([2, 0, 1], (8, 1))
    assert made([0, 1, 2], (16, 1)) != made([0, 1, 2], (8, 4))
