import io

import numpy as np
import pytest
from PIL import Image

from data import reading
from data.errors import DataError
from data.reading import decode, to_canvas


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode, colour, size=(6, 6)):
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain("RGB", (200, 40, 10)), (200, 40, 10)),
        (plain("RGBA", (200, 40, 10, 0)), (255, 255, 255)),
        (plain("LA", (0, 0)), (255, 255, 255)),
        (plain("P", 0), (0, 0, 0)),
        (plain("1", 1), (255, 255, 255)),
        (plain("CMYK", (0, 0, 0, 255)), (0, 0, 0)),
        (plain("I;16", 65535), (255, 255, 255)),
        (plain("I;16", 257 * 100), (100, 100, 100)),
        (plain("F", 0.5), (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_rgb_of_the_same_look(image, expected):
    assert np.array_equal(to_canvas(image, 4, 3)[2, 2], expected)


@pytest.mark.parametrize(
    "array",
    [
        np.full((5, 5), 100, np.uint8),
        np.full((5, 5, 1), 100, np.int64),
        np.full((5, 5, 3), 100 * 257, np.uint16),
        np.full((5, 5), 100 / 255, np.float32),
    ],
    ids=lambda array: str(array.dtype),
)
def test_every_type_of_array_means_the_same_grey(array):
    assert (to_canvas(array, 4, 1) == 100).all()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), 7.0), r"outside \[0, 1\]"),
        (np.full((4, 4), 300), "outside 0 to 255"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((4, 4), "complex64"), "complex64"),
    ],
)
def test_what_is_no_picture_is_refused(array, said):
    with pytest.raises(DataError, match=said):
        to_canvas(array, 4, 1)


def test_an_image_of_the_right_size_passes_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    assert np.array_equal(to_canvas(pixels, 9, 3), pixels)
    assert np.array_equal(to_canvas(decode(encoded(Image.fromarray(pixels))), 9, 3), pixels)


def test_downsizing_averages_instead_of_picking_pixels():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(to_canvas(stripes, 8, 1).astype(int) - 127).max() < 20


def test_an_image_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (0, 0, 4, 4))
    upright = decode(encoded(image, "TIFF", exif=exif))
    assert upright.size == (4, 8)
    assert np.asarray(upright)[0, 0] == 255 and np.asarray(upright)[7, 0] == 0


def noise_image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_refused(kind):
    with pytest.raises(DataError, match="damaged"):
        decode(encoded(noise_image(), kind)[:-400])


def test_a_png_with_one_flipped_bit_is_refused():
    content = bytearray(encoded(noise_image(), compress_level=0))
    content[len(content) // 2] ^= 1
    with pytest.raises(DataError, match="damaged"):
        decode(bytes(content))


def test_a_file_that_is_no_image_is_refused():
    for content, said in ((b"", "empty"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "known format")):
        with pytest.raises(DataError, match=said):
            decode(content)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(reading, "PIXEL_LIMIT", 99)
    with pytest.raises(DataError, match="limit of 99 pixels"):
        decode(encoded(Image.new("L", (10, 10))))


def test_a_decompression_bomb_is_refused():
    with pytest.raises(DataError, match="limit"):
        decode(encoded(Image.new("1", (30_000, 30_000))))
