"""Whatever lies in the raw data: packing ends, each file is accounted for, and none in silence."""

import io
import os
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from tests.faults import mutations

CLASSES = ("ant", "bee", "cow")
WHOLE = 4
"""Images of each class that nothing was done to, so that no class dies out."""


def whole_images():
    random = np.random.default_rng(1)
    for name in CLASSES:
        for number in range(WHOLE):
            buffer = io.BytesIO()
            pixels = random.integers(0, 256, (10, 10, 3), np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            yield f"{name}/whole{number}.png", buffer.getvalue()


def spoilt_images(seed, count):
    random = np.random.default_rng(seed)
    seeds = mutations.whole_files(random)
    names = set()
    while len(names) < count:
        name = f"{CLASSES[random.integers(3)]}/{mutations.any_name(random)}"
        if name not in names:
            names.add(name)
            yield name, mutations.spoilt(random, seeds[random.integers(len(seeds))])


def in_folder(files, path):
    for name, content in files:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def in_tar(files, path):
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def in_zip(files, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            # A backslash parts folders there, as some tools on Windows write it.
            name = os.fsencode(name).decode("latin-1").replace("\\", "_")
            archive.writestr(name, content)


def packed(path, out, seed=0, **changes):
    settings = {"source": "folder", "size": 8, "channels": (1, 3)[seed % 2], "max_quarantined": 1}
    return pack(DataParams(path=str(path), **settings | changes), out)


def require_accounted(summary, out, given=None):
    """Every file is kept, quarantined with a reason, a duplicate or passed over, and is counted."""
    store = PackedStore.open(out / "store", verify=True)
    counted = summary.train + summary.test + summary.duplicates + summary.quarantined
    assert counted == len(store.index)
    if given is not None:
        assert counted + sum(summary.passed_over.values()) == given
    split, reason = store.index["split"], store.index["reason"]
    assert (split.notna() ^ reason.notna()).all() and (reason.dropna() != "").all()
    shape = (len(store), summary.size, summary.size, summary.channels)
    images = store.gather(np.arange(len(store)))
    assert images.shape == shape and images.dtype == np.uint8
    told = [*reason.dropna(), *store.index["source"].dropna()]
    assert all(text.isprintable() for text in told)
    # Neither an object's address nor a path: the same input must give the same bytes.
    assert not [text for text in told if re.search(r"0x[0-9a-f]{6}", text) or str(out) in text]


def content_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def try_spoilt_images(tmp_path, kind, seed, count):
    files = [*whole_images(), *spoilt_images(seed, count)]
    path = tmp_path / "set"
    {"folder": in_folder, "tar": in_tar, "zip": in_zip}[kind](files, path)
    summary = packed(path, tmp_path / "out", seed)
    require_accounted(summary, tmp_path / "out", len(files))
    assert summary.quarantined > count // 10
    packed(path, tmp_path / "again", seed)
    assert content_of(tmp_path / "again") == content_of(tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_every_spoilt_image_is_accounted_for(tmp_path, kind):
    try_spoilt_images(tmp_path, kind, seed=0, count=60)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_every_one_of_thousands_of_spoilt_images_is_accounted_for(tmp_path, kind, seed):
    try_spoilt_images(tmp_path, kind, seed, count=200)


def npz_arrays():
    random = np.random.default_rng(0)
    yield "train_images", random.integers(0, 256, (12, 6, 6), np.uint8)
    yield "train_labels", np.arange(12) % 2
    yield "test_images", random.random((4, 6, 6), np.float32)
    yield "test_labels", np.arange(4) % 2
    yield "classes", np.array(["no", "yes"])


def spoilt_npz(random):
    """One array is spoilt inside an archive that is whole, so that no checksum tells."""
    spoilt = random.integers(5)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (key, array) in enumerate(npz_arrays()):
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            if number == spoilt:
                content = mutations.spoilt(random, content)
            archive.writestr(f"{key}.npy", content)
    return buffer.getvalue()


def spoilt_archives(kind, tmp_path, random, count):
    if kind == "npz":
        yield from (spoilt_npz(random) for _ in range(count))
        return
    path = tmp_path / "whole"
    {"tar": in_tar, "zip": in_zip}[kind](whole_images(), path)
    for _ in range(count):
        yield mutations.spoilt(random, path.read_bytes())


def try_spoilt_archives(tmp_path, kind, seed, count):
    refusals = []
    for content in spoilt_archives(kind, tmp_path, np.random.default_rng(seed), count):
        (tmp_path / "set").write_bytes(content)
        try:
            source = "npz" if kind == "npz" else "folder"
            summary = packed(tmp_path / "set", tmp_path / "out", source=source)
        except DataError as error:
            refusals.append(str(error))
            continue
        require_accounted(summary, tmp_path / "out")
    assert 0 < len(refusals) < count
    assert all(len(said) > 20 and said.isprintable() for said in refusals)


@pytest.mark.parametrize("kind", ["tar", "zip", "npz"])
def test_a_spoilt_archive_is_packed_or_refused_in_one_sentence(tmp_path, kind):
    try_spoilt_archives(tmp_path, kind, seed=0, count=20)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("kind", ["tar", "zip", "npz"])
def test_hundreds_of_spoilt_archives_are_packed_or_refused(tmp_path, kind, seed):
    try_spoilt_archives(tmp_path, kind, seed, count=150)


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self._mark),))


@pytest.mark.parametrize("key", ["train_images", "train_labels", "classes"])
def test_a_pickle_in_an_npz_is_refused_and_runs_no_code(tmp_path, key):
    arrays = {"train_images": np.zeros((4, 8, 8), np.uint8), "train_labels": np.arange(4) % 2}
    np.savez(tmp_path / "a.npz", **arrays | {key: np.array([Trap(tmp_path / "ran")] * 4, object)})
    with pytest.raises(DataError, match=f"{key} holds Python objects; save it as numbers"):
        packed(tmp_path / "a.npz", tmp_path / "out", source="npz")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_instead_of_an_array_is_refused_and_runs_no_code(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in ("train_images", "train_labels"):
            archive.writestr(f"{key}.npy", pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(DataError, match="train_images is damaged"):
        packed(tmp_path / "a.npz", tmp_path / "out", source="npz")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_as_the_weights_is_refused_and_runs_no_code(tmp_path):
    import torch
    from torch import nn

    from models.encoders.weights import load_weights
    from models.errors import ModelError

    weights = tmp_path / "encoder.safetensors"
    for write in (lambda trap: weights.write_bytes(pickle.dumps(trap)),
                  lambda trap: torch.save({"weight": trap}, weights)):  # fmt: skip
        write(Trap(tmp_path / "ran"))
        with pytest.raises(ModelError, match="encoder.safetensors is not a whole safetensors file"):
            load_weights(nn.Linear(1, 1), weights)
        assert not (tmp_path / "ran").exists()


def test_a_pickle_as_the_served_model_is_refused_and_runs_no_code(tmp_path):
    from models.errors import ModelError
    from tasks.serving import _load_pyfunc

    description = (
        '{"classes": ["a", "b"], "size": 8, "channels": 1, "mean": [0.5], "std": [0.5],'
        ' "encoder": {"name": "resnet_tiny"}, "learner": {"name": "linear-probe"}}'
    )
    (tmp_path / "classifier.json").write_text(description)
    (tmp_path / "classifier.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(ModelError, match="Pickles .* are never loaded"):
        _load_pyfunc(str(tmp_path))
    assert not (tmp_path / "ran").exists()
