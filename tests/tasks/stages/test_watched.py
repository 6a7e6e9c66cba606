"""Health is watched on images of all kinds, and on no more than fit into memory."""

import numpy as np
import pytest

from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from tasks.stages import pretrain


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """90 training images of one value each, sorted by class as a folder's are."""
    folder = tmp_path_factory.mktemp("sorted")
    images = np.broadcast_to(np.arange(90, dtype=np.uint8)[:, None, None], (90, 16, 16))
    labels = np.arange(90) // 30
    np.savez(folder / "a.npz", train_images=images, train_labels=labels)
    params = DataParams(source="npz", path=str(folder / "a.npz"), size=16, channels=1)
    pack(params, folder)
    return PackedStore.open(folder / "store")


def test_watched_images_are_of_every_class(store, monkeypatch):
    monkeypatch.setattr(pretrain, "WATCHED", 12)
    watched = pretrain._watched(store, store.rows("train"))
    assert len(watched) == 12
    assert np.bincount(watched[:, 0, 0, 0].numpy() // 30).tolist() == [4, 4, 4]


def test_of_large_images_fewer_are_watched(store, monkeypatch):
    monkeypatch.setattr(pretrain, "WATCHED_BYTES", 7 * 16 * 16)
    assert len(pretrain._watched(store, store.rows("train"))) == 7
