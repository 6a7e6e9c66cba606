"""What cannot be used is counted, told and, above a share of it, the end before any training."""

import csv
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.packing.ledger import Ledger
from data.packing.pack import pack
from data.samples import Sample
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from tasks.errors import explain

SETTINGS = {"source": "folder", "size": 8, "channels": 3, "test_fraction": 0.34}


def spoilt_folder(make_folder, empty=1, text=0):
    """18 images, and some that are none."""
    root = make_folder()
    for number in range(empty):
        (root / "ant" / f"empty{number}.png").touch()
    for number in range(text):
        (root / "bee" / f"text, {number}\n.png").write_text("not a picture")
    return root


def test_above_the_share_nothing_is_packed_and_one_sentence_says_why(make_folder, tmp_path):
    root = spoilt_folder(make_folder, empty=1, text=2)
    table = tmp_path / "state" / "quarantine.csv"
    params = DataParams(path=str(root), max_quarantined=0.1, **SETTINGS)
    with pytest.raises(DataError) as refused:
        pack(params, tmp_path / "out", quarantine=table)
    assert str(refused.value) == (
        "3 of 21 images (14.3%) cannot be used, more than data.max_quarantined (0.1) allows: "
        "not an image in a known format (2), the file is empty (1); "
        f"{table} names each with its reason; fix or remove them, or raise "
        "data.max_quarantined, and run again."
    )
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    with table.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["source", "reason"],
            ["ant/empty0.png", "the file is empty"],
            [r"bee/text, 0\x0a.png", "not an image in a known format"],
            [r"bee/text, 1\x0a.png", "not an image in a known format"],
        ]


def test_a_store_that_was_there_survives_the_refusal(make_folder, tmp_path):
    root = spoilt_folder(make_folder, empty=0)
    params = DataParams(path=str(root), **SETTINGS)
    digest = pack(params, tmp_path / "out").digest
    for number in range(9):
        (root / "ant" / f"empty{number}.png").touch()
    with pytest.raises(DataError, match="cannot be used"):
        pack(params, tmp_path / "out")
    assert PackedStore.open(tmp_path / "out" / "store", verify=True).manifest["digest"] == digest


@pytest.mark.parametrize(("share", "enough"), [(2 / 20, True), (0.0999, False), (0, False)])
def test_the_share_itself_is_allowed(make_folder, tmp_path, share, enough):
    root = spoilt_folder(make_folder, empty=2)
    params = DataParams(path=str(root), max_quarantined=share, **SETTINGS)
    if enough:
        assert pack(params, tmp_path / "out").quarantined == 2
    else:
        with pytest.raises(DataError, match="2 of 20 images"):
            pack(params, tmp_path / "out")


def test_duplicates_that_are_dropped_on_purpose_do_not_count(make_folder, tmp_path):
    root = make_folder()
    for number in range(6):
        for copy in range(3):
            shutil.copy(root / "ant" / f"{number}.png", root / "ant" / f"{number}-{copy}.png")
    summary = pack(DataParams(path=str(root), max_quarantined=0, **SETTINGS), tmp_path / "out")
    assert (summary.duplicates, summary.quarantined) == (18, 0)


def test_labels_that_contradict_each_other_do_count(make_folder, tmp_path):
    root = make_folder()
    shutil.copy(root / "ant" / "0.png", root / "bee" / "same.png")
    with pytest.raises(DataError, match=r"2 of 19 .*same pixels as another image, other label \(2"):
        pack(DataParams(path=str(root), **SETTINGS), tmp_path / "out")


def test_the_summary_tells_counts_by_reason_as_the_table_does(make_folder, tmp_path):
    root = spoilt_folder(make_folder, empty=2, text=1)
    (root / "notes.txt").touch()
    params = DataParams(path=str(root), max_quarantined=0.5, **SETTINGS)
    summary = json.loads(json.dumps(pack(params, tmp_path / "out").as_dict()))
    assert summary["quarantined"] == sum(summary["reasons"].values()) == 3
    assert summary["reasons"] == {"the file is empty": 2, "not an image in a known format": 1}
    assert list(summary["passed_over"].values()) == [1]


def test_reasons_that_differ_by_figures_alone_are_counted_together():
    ledger = Ledger()
    for number, reason in enumerate(("values outside 0 to 255: 0 to 300",
                                     "values outside 0 to 255: -1 to 9",
                                     "damaged image: broken (7 bytes)")):  # fmt: skip
        ledger.refuse(Sample(f"{number}.png", "train", 0, bytes), reason)
    assert ledger.frequent_reasons() == [("values outside 0 to 255", 2), ("damaged image", 1)]


@pytest.fixture
def nobody():
    """A folder of a user who may not do everything, whom this process becomes for the test."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        folder.chmod(0o755)
        os.chown(folder, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


def images_in(folder):
    random = np.random.default_rng(7)
    for name in ("ant", "bee"):
        (folder / "set" / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "set" / name / f"{number}.png")
    return folder / "set"


def test_a_file_without_permission_is_quarantined(nobody):
    root = images_in(nobody)
    (root / "ant" / "0.png").chmod(0)
    pack(DataParams(path=str(root), **SETTINGS), nobody / "out")
    index = PackedStore.open(nobody / "out" / "store").index
    assert index["reason"].dropna().tolist() == ["cannot be read: Permission denied"]


@pytest.mark.parametrize("name", ["set/ant", "set", "."])
def test_a_folder_without_permission_is_named(nobody, name):
    root = images_in(nobody)
    (nobody / name).chmod(0)
    with pytest.raises(DataError, match="cannot be read .Permission denied.; fix its owner or"):
        pack(DataParams(path=str(root), **SETTINGS), nobody / "out")


@pytest.mark.parametrize("kind", ["set.zip", "set.tar", "set.npz"])
def test_an_archive_without_permission_is_named(nobody, kind):
    (nobody / kind).write_bytes(b"x" * 100)
    (nobody / kind).chmod(0)
    settings = SETTINGS | {"source": "npz" if kind.endswith("npz") else "folder"}
    with pytest.raises(DataError, match=rf"{kind} cannot be read .Permission denied"):
        pack(DataParams(path=str(nobody / kind), **settings), nobody / "out")


def test_an_output_folder_without_permission_is_named(nobody):
    root = images_in(nobody)
    (nobody / "artifacts").mkdir(mode=0o555)
    with pytest.raises(PermissionError) as refused:
        pack(DataParams(path=str(root), **SETTINGS), nobody / "artifacts" / "prepare")
    said = explain(refused.value)
    assert said and "permission denied" in said and str(nobody / "artifacts") in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("room", ["64k", "300k"])
def test_a_really_full_disk_is_explained_and_what_was_there_is_kept(tmp_path, room):
    disk, root = tmp_path / "disk", images_in(tmp_path)
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk])
    if mounted.returncode:
        pytest.skip("this machine does not let root mount")
    try:
        small = DataParams(path=str(root), **SETTINGS)
        digest = pack(small, disk / "out").digest
        # Room for the images, not for what is written beside them.
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(max(0, free - 8192)))
        with pytest.raises((DataError, OSError)) as refused:
            pack(small, disk / "out")
        said = explain(refused.value)
        assert said and ("disk is full" in said or "no space left" in said)
        store = PackedStore.open(disk / "out" / "store", verify=True)
        assert store.manifest["digest"] == digest and not list(disk.glob(".*"))
        (disk / "ballast").unlink()
        assert pack(small, disk / "out").digest == digest
    finally:
        # Lazily: the error that was caught still holds a map of a shard.
        subprocess.run(["umount", "-l", disk], check=True)
