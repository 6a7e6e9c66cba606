"""Image files as chance, malice and bad disks make them, from a seed."""

import io
import os
import struct

import numpy as np
from PIL import Image

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
EXTENSIONS = (".png", ".jpg", ".JPEG", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".txt", "")


def whole_files(random):
    """One file of each format and kind that is read."""
    colour = Image.fromarray(random.integers(0, 256, (24, 20, 3), np.uint8))
    grey, clear = colour.convert("L"), colour.convert("RGBA")
    deep = Image.fromarray(random.integers(0, 65536, (24, 20), np.uint16))
    floats = Image.fromarray(random.random((24, 20), np.float32))
    few = colour.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    moving = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    made = [
        (colour, "JPEG", {"exif": exif}), (colour, "JPEG", {"progressive": True}),
        (grey, "JPEG", {}), (colour.convert("CMYK"), "JPEG", {}),
        (colour, "PNG", {}), (clear, "PNG", {}), (deep, "PNG", {}),
        (few, "PNG", {"transparency": 3}),
        (grey.convert("1"), "PNG", {}), (colour, "PNG", moving),
        (colour, "BMP", {}), (few, "BMP", {}),
        (few, "GIF", {}), (colour, "GIF", moving),
        (colour, "WEBP", {}), (clear, "WEBP", {"lossless": True}), (colour, "WEBP", moving),
        (colour, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}), (deep, "TIFF", {}), (floats, "TIFF", {}),
        (colour.convert("CMYK"), "TIFF", {}), (colour.convert("LAB"), "TIFF", {}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}), (colour, "TIFF", moving),
        (colour, "PPM", {}), (grey, "PPM", {}), (deep, "PPM", {}),
    ]  # fmt: skip
    return [_encoded(*how) for how in made]


def _encoded(image, kind, options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def spoilt(random, content):
    """The file with one to three things done to it."""
    for _ in range(random.integers(1, 4)):
        content = WAYS[random.integers(len(WAYS))](random, bytearray(content))
    return bytes(content)


def _flip(random, content):
    for _ in range(random.integers(1, 9)):
        if content:
            content[random.integers(len(content))] ^= 1 << random.integers(8)
    return content


def _flip_header(random, content):
    for _ in range(random.integers(1, 5)):
        if content:
            content[random.integers(min(64, len(content)))] = random.integers(256)
    return content


def _claim(random, content):
    """An extreme number over a field, as in width, height, length or offset."""
    format_ = ("<", ">")[random.integers(2)] + "BHI"[random.integers(3)]
    size = struct.calcsize(format_)
    if len(content) > size:
        value = EXTREMES[random.integers(len(EXTREMES))] & ((1 << (8 * size)) - 1)
        place = random.integers(min(len(content), 300) - size + 1)
        struct.pack_into(format_, content, place, value)
    return content


def _cut(random, content):
    return content[: random.integers(len(content) + 1)]


def _lose(random, content):
    start = random.integers(len(content) + 1)
    return content[:start] + content[start + random.integers(1, 50) :]


def _repeat(random, content):
    start = random.integers(len(content) + 1)
    part = content[start : start + random.integers(1, 50)]
    return content[:start] + part * random.integers(2, 20) + content[start:]


def _blank(random, content):
    """A block of zeros, as a bad disk gives it."""
    start = random.integers(len(content) + 1)
    length = min(512, len(content) - start)
    content[start : start + length] = bytes(length)
    return content


WAYS = (_flip, _flip_header, _claim, _claim, _cut, _lose, _repeat, _blank)


def any_name(random):
    """A file's name of any bytes that a file system takes, with any ending."""
    letters = random.integers(1, 256, random.integers(1, 60)).astype(np.uint8).tobytes()
    name = letters.replace(b"/", b"_")
    if random.random() < 0.5:
        name = name.hex().encode()
    name += EXTENSIONS[random.integers(len(EXTENSIONS))].encode()
    return os.fsdecode(name) if name not in (b".", b"..") else "dots"
