import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.files import read_file
from data.images import reading
from data.images.decoding import canvases
from data.images.reading import decode, to_canvas
from data.samples import Sample


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
        np.full((5, 5), 100 * 257, ">u2"),
        np.full((5, 5), 100, ">i4"),
        np.full((5, 5), 100 / 255, ">f8"),
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
        (np.full((4, 4), 4095, np.uint16), "less than a 16th of its range .values up to 4095"),
        (np.full((4, 4), 4095, ">u2"), "less than a 16th of its range"),
        (np.full((4, 4), -np.inf), "NaN or infinite"),
        (np.full((1, 70_000), 9, np.uint8), "too long a side"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.zeros((4, 4), "complex64"), "complex64"),
    ],
)
def test_what_is_no_picture_is_refused(array, said):
    with pytest.raises(DataError, match=said):
        to_canvas(array, 4, 1)


def test_black_and_full_range_images_of_16_bits_are_read():
    assert (to_canvas(np.zeros((4, 4), np.uint16), 4, 1) == 0).all()
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    expected = np.linspace(0, 255, 16).reshape(4, 4, 1)
    assert np.abs(to_canvas(ramp, 4, 1) - expected).max() <= 0.5
    tiff = decode(encoded(Image.fromarray(ramp), "TIFF"))
    assert np.array_equal(to_canvas(tiff, 4, 1), to_canvas(ramp, 4, 1))


@pytest.mark.parametrize("values", [(-1, 9), (0, 70_000)])
def test_32_bit_files_are_never_clipped(values):
    image = Image.fromarray(np.array([values] * 2, np.int32))
    with pytest.raises(DataError, match="values outside 16 bits: "):
        to_canvas(decode(encoded(image, "TIFF")), 2, 1)


def colour_png_of_16_bits(brightest):
    """Pillow writes none."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    size = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", *[brightest] * 6))
    chunks = chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colours_of_12_bits_in_16_are_refused_and_not_read_as_black():
    assert (to_canvas(decode(colour_png_of_16_bits(65535)), 4, 3) == 255).all()
    assert (to_canvas(decode(colour_png_of_16_bits(0)), 4, 3) == 0).all()
    with pytest.raises(DataError, match="less than a 16th of its range"):
        decode(colour_png_of_16_bits(4095))
    dark = Image.new("RGB", (6, 6), (9, 9, 9))
    for kind in ("PNG", "TIFF", "JPEG", "PPM"):
        assert to_canvas(decode(encoded(dark, kind)), 6, 3).max() < 16


def test_of_several_frames_the_first_counts():
    frames = [plain("RGB", colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"save_all": True, "append_images": frames[1:]}
        options |= {"lossless": True} if kind == "WEBP" else {}
        canvas = to_canvas(decode(encoded(frames[0], kind, **options)), 6, 3)
        assert np.array_equal(canvas[2, 2], (255, 0, 0)), kind


def test_a_colour_space_that_cannot_be_converted_is_refused():
    with pytest.raises(DataError, match="cannot be converted to L"):
        to_canvas(decode(encoded(plain("LAB", (9, 9, 9)), "TIFF")), 6, 1)


@pytest.mark.timeout(60)
def test_a_pipe_given_to_the_served_model_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a file"):
        read_file(tmp_path / "pipe.png")


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
    for content, said in ((b"", "empty"), (b"%!PS-Adobe-3.0\n", "known format")):
        with pytest.raises(DataError, match=said):
            decode(content)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(reading, "PIXEL_LIMIT", 99)
    with pytest.raises(DataError, match="limit of 99 pixels"):
        decode(encoded(Image.new("L", (10, 10))))


def test_a_decompression_bomb_is_refused():
    with pytest.raises(DataError, match="limit"):
        decode(encoded(Image.new("1", (30_000, 30_000))))


def test_a_lack_of_memory_is_no_damage_to_the_image():
    def short_of_memory():
        raise MemoryError

    with pytest.raises(MemoryError):
        list(canvases([Sample("a.png", "train", 0, short_of_memory)], 8, 1))
    with pytest.raises(MemoryError), reading._explained():
        short_of_memory()
