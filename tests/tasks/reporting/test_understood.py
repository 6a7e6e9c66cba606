"""What a user reads after `prepare`: every count, the test set's origin, what is left out."""

import numpy as np
import pytest
from PIL import Image

from data.packing.pack import pack
from data.sources.params import DataParams
from tasks.reporting.understood import understood


def told(tmp_path, path, allowed=1, source="folder"):
    params = DataParams(source=source, path=str(path), size=8, channels=1, max_quarantined=allowed)
    return understood(pack(params, tmp_path / ".out").as_dict())


@pytest.fixture
def put(tmp_path):
    random = np.random.default_rng(0)

    def put(folders):
        for folder, images in folders.items():
            (tmp_path / "mine" / folder).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                pixels = random.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / folder / f"{number}.png")
        return tmp_path / "mine"

    return put


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (
            {"cat": 10, "dog": 10},
            "20 images of 2 classes (cat, dog; 8 labelled training images each): 16 to train on, "
            "16 of them labelled; 4 to test (split off at random); "
            "left out: 0 quarantined, 0 duplicates, 0 passed over",
        ),
        (
            {"Train/cat": 12, "Train/dog": 4, "TEST/cat": 3, "TEST/dog": 3, "unlabelled": 5},
            "27 images of 2 classes (cat, dog; 4 to 12 labelled training images each): 21 to train "
            "on, 16 of them labelled; 6 to test (TEST/); "
            "left out: 0 quarantined, 0 duplicates, 0 passed over",
        ),
        (
            {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1},
            "6 images of 2 classes (cat, dog; 2 labelled training images each): 4 to train on, "
            "4 of them labelled; 2 to test (val/); "
            "left out: 0 quarantined, 0 duplicates, 0 passed over",
        ),
    ],
)
def test_one_line_says_what_was_understood(put, tmp_path, folders, line):
    assert told(tmp_path, put(folders)) == [line]


@pytest.mark.parametrize("key", ["test", "val"])
def test_of_an_npz_the_array_of_the_test_set_is_named(tmp_path, key):
    random = np.random.default_rng(0)
    arrays = {
        f"{part}_images": random.integers(0, 256, (6, 8, 8), np.uint8) for part in ("train", key)
    }
    labels = {f"{part}_labels": np.arange(6) % 2 for part in ("train", key)}
    np.savez(tmp_path / "set.npz", **arrays, **labels)
    (line,) = told(tmp_path, tmp_path / "set.npz", source="npz")
    assert f"6 to test ({key}_images)" in line


def test_what_is_left_out_is_named_by_its_kinds(put, tmp_path):
    root = put({"cat": 10, "dog": 10})
    for number in range(3):
        (root / "cat" / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    (root / "dog" / "empty.png").write_bytes(b"")
    (root / "dog" / "copy.png").write_bytes((root / "dog" / "0.png").read_bytes())
    (root / "notes.txt").write_text("notes")
    (root / ".hidden").write_text("")
    line, warning = told(tmp_path, root)
    assert "4 quarantined (" in line and ": 3" in line and "1 duplicate," in line
    assert "2 passed over (" in line and "hidden files: 1" in line
    assert warning.startswith("warning: 6 of 26 files (23.1%) are left out")


@pytest.mark.parametrize(("spoilt", "warned"), [(1, False), (2, True)])
def test_more_than_one_in_a_hundred_is_warned_of(put, tmp_path, spoilt, warned):
    root = put({"cat": 50, "dog": 50 - spoilt})
    for number in range(spoilt):
        (root / "dog" / f"spoilt{number}.png").write_bytes(b"")
    for number in range(20):
        (root / "dog" / f".{number}").write_text("")
    (root / "@eaDir").mkdir()
    (root / "@eaDir" / "thumb.jpg").write_bytes(b"")
    assert any("warning" in line for line in told(tmp_path, root)) == warned


def test_how_names_were_read_is_noted(put, tmp_path):
    lines = told(tmp_path, put({"pets": 4, "pets/cat": 4, "pets/dog": 4, "Pets": 4}))
    assert [line for line in lines if line.startswith("note: ")] == [
        "note: folders within a class are not classes: pets/cat, pets/dog",
        "note: classes whose names differ by upper and lower case: 'Pets', 'pets'",
    ]


def test_many_classes_stay_one_line(put, tmp_path):
    (line,) = told(tmp_path, put({f"class{number:02d}": 2 for number in range(30)}))
    assert "30 classes (class00, class01, class02, class03, class04, class05, ...; 1 " in line


@pytest.mark.parametrize("name", ["photo.heic", "spoilt.png"])
def test_a_class_that_is_mostly_spoilt_is_named(put, tmp_path, name):
    root = put({"cat": 100, "dog": 100, "owl": 6})
    for number in range(9):
        (root / "owl" / f"{number}{name}").write_bytes(b"")
    assert "warning: 9 of the 15 images of class 'owl' cannot be read" in told(tmp_path, root, 0.1)


def test_a_class_of_links_out_is_named(put, tmp_path):
    root = put({"cat": 100, "dog": 100, "owl": 6})
    for number in range(9):
        (root / "owl" / f"link{number}.png").symlink_to("/etc/hostname")
    assert "warning: 9 of the 15 images of class 'owl' cannot be read" in told(tmp_path, root, 0.1)
