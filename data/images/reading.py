"""One image, whatever its kind, to one square of uint8: when packing and when serving alike.

An image that is not square is squashed, not cropped: in a user's own images the thing to see may
lie at the border, and random crops vary the aspect by more than most cameras do.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from data.errors import DataError
from data.files import require_few_bytes
from data.images.formats import is_tiff, unread_by_content, unread_by_name

if TYPE_CHECKING:
    from PIL import Image

# A file of a few kilobytes can claim billions of pixels; past this it is refused undecoded.
PIXEL_LIMIT = 89_478_485
# The longest side of a JPEG. Resizing takes 32 bytes for each pixel of a side: 3 GB for one line of
# `PIXEL_LIMIT` pixels.
SIDE_LIMIT = 65_535
# A 16-bit image that uses less than this part of its range is refused: at most 16 grey levels would
# be left. Stretching each on its own would make equal things look different.
DARK = 16
# A fixed list: Pillow would otherwise try every format it knows, EPS through Ghostscript included.
# (MPO, what some phones save as .jpg, is opened by JPEG's plugin.)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (
    ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def looks_like_image(start: bytes) -> bool:
    """Whether a file's first `formats.START_BYTES` are an image's, be it of a format not read.

    BMP and PPM are left out, since text may begin like them.
    """
    return (
        start.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or is_tiff(start)
        or unread_by_content(start) is not None
    )


def decode(encoded: bytes, name: str = "") -> Image.Image:
    """An image file's content as a loaded Pillow image; see `open_image` and `load_image`."""
    return load_image(open_image(encoded, name))


def open_image(encoded: bytes, name: str = "") -> Image.Image:
    """An image file's header, from which its size is known before its pixels take any room.

    Args:
        encoded: The file's bytes, in one of `FORMATS`, whatever its name; of several frames the
            first counts.
        name: The file's name, for the reason where its content tells none.

    Raises:
        DataError: The bytes are no image, of a format that is not read, or hold too many pixels.
    """
    from PIL import Image

    if not encoded:
        raise DataError("the file is empty")
    require_few_bytes(len(encoded))
    if unread := unread_by_content(encoded, name):
        raise DataError(unread.reason)
    with _explained(name):
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        _require_size(image.width, image.height)
        if image.format == "PNG":
            # Loading a PNG skips the checksums of its pixel data; verifying uses the image up.
            image.verify()
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        return image


def load_image(image: Image.Image) -> Image.Image:
    """The pixels of what `open_image` gave, upright (EXIF orientation applied).

    Raises:
        DataError: They are truncated or damaged, or nearly black in 16 bits.
    """
    from PIL import ImageOps

    with _explained():
        # Of colours of 16 bits Pillow keeps the upper 8.
        halved = image.mode in ("RGB", "RGBA", "LA") and ";16" in _raw_mode(image)
        image.load()
        if halved and 0 < _brightest(image) < 256 // DARK:
            raise DataError(_too_dark(256 * _brightest(image) + 255))
        return ImageOps.exif_transpose(image)


@contextmanager
def _explained(name: str = "") -> Iterator[None]:
    """Whatever Pillow's parsers run into, as a reason."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        unread = unread_by_name(name)
        said = f"by its name {unread.reason}" if unread else "not an image in a known format"
        raise DataError(said) from None
    except Image.DecompressionBombError:
        raise DataError(f"too many pixels: over the limit of {PIXEL_LIMIT} pixels") from None
    # A lack of memory says nothing of the image: elsewhere it would be read.
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"damaged image: {str(error) or type(error).__name__}") from error


def to_canvas(image: np.ndarray | Image.Image, size: int, channels: int) -> np.ndarray:
    """One image as the packed store holds it.

    Transparency is put on white; 16-bit values are scaled to 8 bits, from their full range; floats
    are taken to lie in [0, 1]. Resizing is bicubic with antialiasing.

    Args:
        image: Pillow image, or array (H, W) or (H, W, 1 | 3 | 4) of bool, integers or floats.
        size: Side of the square in pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        Array (size, size, channels), uint8.

    Raises:
        DataError: The array has no image's shape, or values that are no pixel values; or 16 bits
            of which so few are used that next to nothing would be left of them.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.shape == (size, size, channels):
            return image
        image = _from_array(image)
    image = _in_mode(image, "L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels)


def _require_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise DataError(
            f"too many pixels: {width}×{height}, over the limit of {PIXEL_LIMIT} pixels"
        )
    if max(width, height) > SIDE_LIMIT:
        raise DataError(f"too long a side: {width}×{height}, over the limit of {SIDE_LIMIT} pixels")


def _from_array(array: np.ndarray) -> Image.Image:
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise DataError(
            f"not the shape of an image: (H, W) or (H, W, 1 | 3 | 4), not {array.shape}"
        )
    _require_size(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    # As types, those of another byte order equal none of the below.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        if 0 < array.max() < 65536 // DARK:
            raise DataError(_too_dark(int(array.max())))
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise DataError(f"values outside 0 to 255: {array.min()} to {array.max()}")
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise DataError("holds NaN or infinite values")
        if array.min() < 0 or array.max() > 1:
            raise DataError(
                f"float values outside [0, 1]: {array.min():g} to {array.max():g}; "
                "scale them, or give uint8"
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise DataError(f"values that are no pixels: of type {array.dtype}")


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file of an image that is not loaded yet, e.g. ``RGB;16B``."""
    tiles = getattr(image, "tile", [])
    how = tiles[0][3] if tiles else ""
    return str(how[0] if isinstance(how, tuple) and how else how)


def _brightest(image: Image.Image) -> int:
    """The largest value of any colour."""
    ranges = [image.getchannel(c).getextrema() for c in image.getbands() if c != "A"]
    return max(int(high) for _, high in ranges)  # type: ignore[arg-type]


def _too_dark(most: int) -> str:
    return (
        f"a 16-bit image that uses less than a {DARK}th of its range (values up to {most} of "
        "65535, as 12-bit cameras give): scale all by the same factor, or save 8 bits"
    )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    try:
        if image.mode == "F":
            image = _from_array(np.asarray(image))
        elif image.mode.startswith("I"):
            image = _from_array(_sixteen_bits(np.asarray(image)))
        elif image.has_transparency_data:
            colours = image.convert("RGBA")
            white = Image.new("RGBA", colours.size, "white")
            image = Image.alpha_composite(white, colours)
        return image if image.mode == mode else image.convert(mode)
    # A colour space that Pillow cannot convert (LAB), or a palette's damaged transparency.
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"cannot be converted to {mode}: {error}") from error


def _sixteen_bits(array: np.ndarray) -> np.ndarray:
    # Pillow opens 16-bit files as I;16 or, by the format, as I (32-bit).
    if array.min() < 0 or array.max() > 65535:
        raise DataError(f"values outside 16 bits: {array.min()} to {array.max()}")
    return array.astype(np.uint16)
