"""What packing holds in memory depends neither on how many images there are nor on how large."""

import io
import threading
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from data.images import decoding
from data.images.decoding import canvases
from data.images.reading import load_image
from data.packing import shard_writer
from data.packing.pack import pack
from data.samples import Sample
from data.sources.params import DataParams
from data.store.packed_store import PackedStore, evenly_spread

MB = 1 << 20


def peak(action):
    """Bytes at most held by Python and numpy while `action` runs."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_packing_four_times_the_images_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", MB // 4)

    def pack_many(count):
        images = np.random.default_rng(0).integers(0, 256, (count, 160, 160), np.uint8)
        np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(count) % 2)
        del images
        params = DataParams(source="npz", path=str(tmp_path / "a.npz"), size=64, channels=1)
        return peak(lambda: pack(params, tmp_path / f"{count}"))

    pack_many(10)  # imports
    few, many = pack_many(300), pack_many(1200)
    assert many < 1.3 * few, f"{few / MB:.0f} MB for 300 images, {many / MB:.0f} MB for 1200"


@pytest.mark.parametrize(("shown", "size"), [(16, 512), (1500, 16)])
def test_large_images_are_few_in_flight(monkeypatch, shown, size):
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: range(2))

    def decode_all():
        stream = (
            Sample(str(i), "train", 0, np.full((shown, shown, 3), i, np.uint8)) for i in range(60)
        )
        assert sum(1 for _ in canvases(stream, size, 3)) == 60

    # Five chunks wait, one is made and one is used up; each may go over by one image.
    assert (
        peak(decode_all) < 7 * (decoding.CHUNK_BYTES + shown * shown * 3 + size * size * 3) + 4 * MB
    )


@pytest.mark.parametrize(("room", "at_once"), [(1, 1), (2, 2), (99, 4)])
def test_no_more_pixels_are_decoded_at_once_than_there_is_room_for(monkeypatch, room, at_once):
    """Eight bombs of 89 million pixels would take 11 GB together."""
    buffer = io.BytesIO()
    Image.new("L", (50, 50)).save(buffer, "PNG")
    lock, held, most = threading.Lock(), 0, 0
    together = threading.Event()

    def load(image):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
            if held == at_once:
                together.set()
        together.wait(60)
        time.sleep(0.01)
        with lock:
            held -= 1
        return load_image(image)

    monkeypatch.setattr(decoding, "load_image", load)
    monkeypatch.setattr(decoding, "CHUNK", 1)
    monkeypatch.setattr(decoding.os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(decoding, "_ROOM", decoding.Room(room * 50 * 50))
    stream = (Sample(str(i), "train", 0, buffer.getvalue) for i in range(24))
    assert all(canvas.pixels is not None for canvas in canvases(stream, 8, 1))
    assert most == at_once


def test_a_spread_choice_has_both_ends_and_all_between():
    assert evenly_spread(np.arange(100, 200), 4).tolist() == [100, 133, 166, 199]
    assert evenly_spread(np.arange(3), 9).tolist() == [0, 1, 2]


def test_rows_of_a_packed_folder_are_spread_over_its_classes(make_folder, pack_folder):
    store: PackedStore = pack_folder(make_folder())
    rows = evenly_spread(store.rows("train"), 3)
    assert store.labels(rows).tolist() == [0, 1, 2]
