"""What is given to the served model means one thing, or is refused with all that it may mean."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data.errors import DataError
from data.images.formats import HEIC
from tasks.serving.model import ServedModel
from tasks.serving.model_input import as_images
from tests.tasks.conftest import CLASSES, SIZE, write_classifier


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of grey images."""
    classifier = write_classifier(tmp_path_factory.mktemp("finetune"), seed=3)
    return ServedModel(classifier, CLASSES, SIZE, 1)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def answers(table):
    return table[[f"prob_{name}" for name in CLASSES]].to_numpy()


BOTH = r"can be read in 2 ways: .*images\[\.\.\., None\].*; one image of .*image\[None\]"
FIRST = r"can be read in 2 ways: .*images\[\.\.\., None\].*first: then give np\.moveaxis"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, torch.from_numpy])
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((32, 32, 3), BOTH),
        ((16, 16, 3), BOTH),
        ((5, 7, 4), BOTH),
        ((32, 32, 1), BOTH),
        ((1, 32, 3), BOTH),
        ((3, 32, 32), FIRST),
        ((4, 20, 30), FIRST),
        ((3, 32, 3), "can be read in 3 ways"),
        ((2, 3, 32, 3), r"can be read in 2 ways: .*list\(images\).*list\(np\.moveaxis"),
        ((5, 3, 32, 32), r"np\.moveaxis\(images, 1, -1\)"),
        ((5, 1, 32, 32), r"np\.moveaxis\(images, 1, -1\)"),
        ((5, 32, 32, 2), r"C of 1, 3 or 4, not \(5, 32, 32, 2\)"),
        ((32, 32), r"one grey image goes as image\[None\]"),
        ((5, 1024), r"images\.reshape\(N, H, W\)"),
        ((9,), r"image\[None\]"),
        ((1, 2, 8, 8, 3), "C of 1, 3 or 4"),
    ],
)
def test_shape_of_two_readings_or_none_is_refused(make, channels, shape, said):
    with pytest.raises(DataError, match=said):
        as_images(make(pixels(*shape)), SIZE, channels)


def test_every_reading_can_be_given_as_the_message_says(model):
    image = pixels(32, 32, 3)
    assert len(model.predict(image[None])) == 1
    assert len(model.predict(image[..., None])) == 32
    first = np.moveaxis(image, -1, 0)
    np.testing.assert_array_equal(
        answers(model.predict(np.moveaxis(first, 0, -1)[None])), answers(model.predict(image[None]))
    )
    flat = pixels(2, 3, 32, 3)
    assert len(model.predict(list(flat))) == len(model.predict(list(np.moveaxis(flat, 1, -1)))) == 2


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_batch_of_the_models_own_grey_images_may_have_any_length(count):
    images = pixels(count, SIZE, SIZE)
    assert as_images(images, SIZE, 1) is images
    if count in (3, 4):
        with pytest.raises(DataError, match=FIRST):
            as_images(images, SIZE, 3)


GREY = pixels(2, 20, 30)
COLOUR = pixels(2, 20, 30, 3)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (lambda: list(GREY), GREY),
        (lambda: tuple(GREY), GREY),
        (lambda: list(COLOUR), COLOUR),
        (lambda: list(torch.from_numpy(COLOUR)), COLOUR),
        (lambda: torch.from_numpy(GREY / 255.0).requires_grad_(), GREY),
        (lambda: COLOUR.tolist(), COLOUR),
        (lambda: COLOUR.astype(np.int64), COLOUR),
        (lambda: [Image.fromarray(image) for image in COLOUR], COLOUR),
        (lambda: [png(image) for image in COLOUR], COLOUR),
        (lambda: [bytearray(png(image)) for image in COLOUR], COLOUR),
        (lambda: pd.Series([png(image) for image in COLOUR]), COLOUR),
        (lambda: np.array([png(image) for image in COLOUR], object), COLOUR),
        (lambda: Image.fromarray(COLOUR[0]), COLOUR[:1]),
        (lambda: png(COLOUR[0]), COLOUR[:1]),
        (lambda: {"image": base64.b64encode(png(COLOUR[0])).decode()}, COLOUR[:1]),
        (lambda: {"image": [png(image) for image in COLOUR]}, COLOUR),
        (lambda: [png(COLOUR[0]), COLOUR[1]], COLOUR),
        (lambda: pd.DataFrame({"image": [png(COLOUR[0])], "label": ["bag"]}), COLOUR[:1]),
    ],
)
def test_whatever_means_one_thing_gives_what_its_pixels_give(model, given, same):
    np.testing.assert_allclose(
        answers(model.predict(given())), answers(model.predict(same)), atol=1e-6
    )


def test_images_of_unequal_sizes_go_as_a_list(model):
    sizes = [(20, 30), (9, 8, 3), (3, 40), (40, 3), (3, 8, 3)]
    assert len(model.predict([pixels(*size) for size in sizes])) == len(sizes)


@pytest.mark.parametrize(
    "empty", [[], (), np.zeros((0, 9, 9)), np.array([]), pd.Series([], dtype=str)]
)
def test_nothing_gives_no_rows(model, empty):
    assert len(model.predict(empty)) == 0


def test_paths_and_contents_may_be_mixed_and_are_named_when_they_fail(model, tmp_path):
    (tmp_path / "a.png").write_bytes(png(COLOUR[0]))
    column = np.array([[str(tmp_path / "a.png")]] * 2)
    assert (
        len(model.predict([tmp_path / "a.png", png(COLOUR[1])])) == len(model.predict(column)) == 2
    )
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "b.nef").write_bytes(b"?")
    for given, said in (
        ([str(tmp_path / "photo.jpg")], rf"photo\.jpg: {HEIC.what}, which is not read: convert"),
        ([(tmp_path / "photo.jpg").read_bytes()], rf"image 0: {HEIC.what}, which is not read"),
        ([tmp_path / "b.nef"], "by its name a camera's raw photo"),
        (str(tmp_path), "not a file"),
        (["a\0.png"], "null"),
        (["x" * 5000], "x{200}: "),
    ):
        with pytest.raises(DataError, match=said):
            model.predict(given)


B64 = base64.b64encode(png(COLOUR[0])).decode()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"path": ["a.png"], "image": [b""]}), "'path' and 'image'.*leave one"),
        ([{"path": "a.png"}, {"image": B64}], "columns 'path' and 'image'"),
        (pd.DataFrame([["a.png", "b.png"]], columns=["path", "path"]), "columns 'path' and 'path'"),
        (pd.DataFrame({"path": ["a.png", None]}), "image 1: not a path, but"),
        (pd.DataFrame({"path": [b"a.png"]}), "image 0: not a path"),
        (pd.DataFrame(np.zeros((2, 9))), "needs a column 'path'"),
        ({}, "needs a column 'path'"),
        ({"image": [B64], "path": ["a", "b"]}, "make no table"),
        ({"images": pixels(2, 8, 8)}, "make no table"),
        ([B64], "image 0: an image as base64, where a path is expected"),
        ([f"data:image/png;base64,{B64}"], "as base64, where a path"),
        (B64, "as base64, where a path"),
        (np.array([["a", "b"], ["c", "d"]]), "paths and files' content go as a list"),
        (np.array([png(COLOUR[0])]), "files' content go as a list"),
        (np.array([*GREY, None], object), "image 2: neither a path"),
        (pixels(2, 8, 8).astype(object), r"astype\(np\.uint8\)"),
        (pixels(2, 8, 8).astype(complex), "complex"),
        (["a.png", 7], r"image 1 is \(\)"),
        ([None], "image 0: neither a path"),
        (None, "not as NoneType"),
        (7, r"not \(\)"),
        ((image for image in GREY), "not as generator"),
        ([[[1, 2], [3]]], "unequal sizes go as a list"),
        ([pixels(3, 20, 20)], r"image 0 is \(3, 20, 20\), its channels first"),
        ([pixels(2, 8, 8, 3)], r"image 0 is \(2, 8, 8, 3\); in a list each is one image"),
        ([pixels(9), pixels(9)], r"image 0 is \(9,\)"),
        (pixels(2, 8, 8) % 2, "nearly black"),
        ((pixels(2, 8, 8) % 2).tolist(), "nearly black"),
        (list(pixels(2, 8, 8) % 2), "nearly black"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_two_things_is_refused_with_the_way_out(given, said):
    with pytest.raises(DataError, match=said):
        as_images(given, SIZE, 1)


def test_values_of_0_and_1_are_taken_where_they_mean_something(model):
    ones = pixels(2, 8, 8) % 2
    for given in (ones.astype(bool), ones.astype(float), np.zeros((2, 8, 8), int)):
        assert as_images(given, SIZE, 1) is given
    assert as_images(ones, SIZE, 1, dark=True) is ones


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pixels(1, 8, 8) * 1.0, r"float values outside \[0, 1\]"),
        (pixels(1, 8, 8) / 127 - 1, r"float values outside \[0, 1\]"),
        (pixels(1, 8, 8).astype(int) + 9, "values outside 0 to 255"),
    ],
)
def test_values_that_are_no_pixels_are_refused(model, values, said):
    with pytest.raises(DataError, match=f"image 0: {said}"):
        model.predict(values)


def test_pillow_image_is_turned_as_its_file_is(model):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(file.getvalue()))
    np.testing.assert_array_equal(
        answers(model.predict(opened)), answers(model.predict(file.getvalue()))
    )
