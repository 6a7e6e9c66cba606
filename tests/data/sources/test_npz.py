"""What is in an `.npz` is used as a folder of that name would be, or named; nothing goes lost."""

import json

import numpy as np
import pytest

from data.errors import DataError
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore, read_test_sources

SPELLINGS = {"unlabelled", "unlabeled"}
RANDOM = np.random.default_rng(0)


def images(count=12, *shape):
    return RANDOM.integers(0, 256, (count, *(shape or (8, 8))), np.uint8)


def labels(count=12):
    return np.arange(count) % 2


def arrays(*parts, count=12):
    made = {}
    for part in parts:
        made[f"{part}_images"] = images(count)
        if not part.startswith("unlab"):
            made[f"{part}_labels"] = labels(count)
    return made


def packed(folder, given, test_fraction=0.25):
    np.savez(folder / "a.npz", **given)
    params = DataParams(
        source="npz", path=str(folder / "a.npz"), size=8, channels=1, test_fraction=test_fraction
    )
    summary = pack(params, folder / "out")
    store = PackedStore.open(folder / "out" / "store")
    tested = read_test_sources(folder / "out" / "test_sources.parquet")["source"]
    learned = store.index[store.index["split"] == "train"]["source"]
    return summary, {name.split("/")[0] for name in learned}, {n.split("/")[0] for n in tested}


@pytest.mark.parametrize(
    ("parts", "learned", "tested"),
    [
        (["train"], {"train"}, {"train"}),
        (["train", "test"], {"train"}, {"test"}),
        (["train", "val"], {"train"}, {"val"}),
        (["train", "val", "test"], {"train", "val"}, {"test"}),
        (["train", "val", "unlabelled"], {"train", "unlabelled"}, {"val"}),
        (["train", "unlabeled"], {"train", "unlabeled"}, {"train"}),
        (["train", "test", "unlabelled", "unlabeled"], {"train", *SPELLINGS}, {"test"}),
    ],
)  # fmt: skip
def test_every_part_is_used_as_a_folder_of_that_name(tmp_path, parts, learned, tested):
    summary, learns, tests = packed(tmp_path, arrays(*parts))
    assert learns == {f"{part}_images" for part in learned}
    assert tests == {f"{part}_images" for part in tested}
    assert summary.train + summary.test == 12 * len(parts) and summary.passed_over == {}
    assert sum(summary.train_per_class) == summary.train - summary.unlabelled


def test_medical_sets_with_columns_of_labels_are_read(tmp_path):
    given = arrays("train", "val", "test")
    for part in ("train", "val", "test"):
        given[f"{part}_images"] = images(12, 28, 28, 3)
        given[f"{part}_labels"] = labels()[:, None].astype(np.uint8)
    summary, *_ = packed(tmp_path, given)
    assert (summary.train, summary.test, summary.classes) == (24, 12, ["0", "1"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"valid_images": images()}, r"'valid_images' \(12, 8, 8\) .*\(val_images\?\)"),
        ({"train_image": images()}, r"'train_image' .*\(train_images\?\)"),
        ({"x_test": images(12, 8, 8, 3)}, "'x_test' .*Rename it"),
        ({"extra": images(12, 3, 8, 8)}, "'extra' .*or leave it out"),
        ({"masks": images() > 9}, "'masks' .*may hold images"),
        ({"Test_images": images().astype(float)}, "'Test_images'"),
        ({"turned": np.asfortranarray(images())}, "'turned'"),
        ({"test_images": images()}, "test_images but no array 'test_labels'.*unlabelled_images"),
        ({"val_images": images()}, "val_images but no array 'val_labels'.*unlabelled_images"),
        ({"val_labels": labels()}, "val_labels but no val_images"),
        ({"test_labels": labels()}, "test_labels but no test_images"),
        ({"val_images": images(), "val_labels": labels() + 5}, r"val_labels\[0\] is 5"),
        ({"val_images": images(), "val_labels": labels(9)}, "val_labels is .* the 12 val_images"),
        ({"val_images": images(0), "val_labels": labels(0)}, "val_images is empty"),
    ],
)  # fmt: skip
def test_images_and_labels_that_nobody_would_read_are_refused_by_name(tmp_path, more, said):
    with pytest.raises(DataError, match=said):
        packed(tmp_path, arrays("train") | more)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("x_train", "y_train", "x_test"), "no array 'train_images'; it holds x_test, x_train, y_"),
        (("X", "y"), "it holds X, y. Save its arrays again as train_images"),
        (("data", "labels"), "it holds data, labels"),
        (("arr_0", "arr_1"), "it holds arr_0, arr_1"),
        (("train_images",), "train_images but no array 'train_labels'"),
        (("train_images", "train_label"), "'train_labels'; it holds .*train_label"),
        ((), "it holds nothing"),
    ],
)  # fmt: skip
def test_a_file_of_other_names_is_refused_with_those_that_are_read(tmp_path, names, said):
    with pytest.raises(DataError, match=said):
        packed(tmp_path, {name: images() for name in names})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.eye(2, dtype=int)[labels()], r"labels\.argmax\(axis=1\)"),
        (np.zeros((12, 14), np.uint8), "several labels an image do not go"),
        (labels().astype(float), r"astype\(np\.int64\)"),
        (labels().astype(bool), r"astype\(np\.int64\)"),
        (np.array(["cat", "dog"])[labels()], r"np\.unique\(names, return_inverse=True\)"),
        (np.array([b"cat", b"dog"])[labels()], r"np\.unique\(names, return_inverse=True\)"),
        (np.arange(12) % 3 - 1, "into unlabelled_images"),
        (labels().reshape(2, 6), "one whole number for each of the 12"),
    ],
)
def test_labels_in_another_form_are_refused_with_what_makes_numbers_of_them(tmp_path, given, said):
    with pytest.raises(DataError, match=said):
        packed(tmp_path, arrays("train") | {"train_labels": given})


@pytest.mark.parametrize("names", [["cat"], ["cat", "dog", "emu"]])
def test_names_that_do_not_fit_the_labels_are_refused(tmp_path, names):
    with pytest.raises(DataError, match=r"1 class;|class 'emu' has"):
        packed(tmp_path, arrays("train") | {"classes": np.array(names)})


def test_other_arrays_are_passed_over_by_their_names(tmp_path):
    more = {"ids": labels(), "boxes": np.zeros((12, 4, 2)), "embedding": np.zeros((12, 64))}
    summary, *_ = packed(tmp_path, arrays("train") | more)
    assert summary.passed_over == {"arrays that are not used: boxes, embedding, ids": 3}
    assert json.loads(json.dumps(summary.as_dict()))["passed_over"] == summary.passed_over
