"""One image, whatever its kind, to one square of uint8: when packing and when serving alike.

An image that is not square is squashed, not cropped: in a user's own images the thing to see may
lie at the border, and random crops vary the aspect by more than most cameras do.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# A file of a few kilobytes can claim billions of pixels; past this it is refused undecoded.
PIXEL_LIMIT = 89_478_485
BYTES_LIMIT = 1 << 30
# A fixed list: Pillow would otherwise try every format it knows, EPS through Ghostscript included.
# (MPO, what some phones save as .jpg, is opened by JPEG's plugin.)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def read_file(path: Path) -> bytes:
    """A file's content, of one that is too large for `decode` only so much that this can tell."""
    with path.open("rb") as file:
        return file.read(BYTES_LIMIT + 1)


def decode(encoded: bytes) -> Image.Image:
    """An image file's content as a loaded Pillow image, upright (EXIF orientation applied).

    Args:
        encoded: The file's bytes, in one of `FORMATS`; of several frames the first counts.

    Raises:
        DataError: The bytes are no image, are truncated or damaged, or hold too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not encoded:
        raise DataError("the file is empty")
    if len(encoded) > BYTES_LIMIT:
        raise DataError(f"the file is larger than {BYTES_LIMIT >> 30} GiB")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > PIXEL_LIMIT:
            raise DataError(
                f"{image.width}×{image.height} pixels exceed the limit of {PIXEL_LIMIT} pixels"
            )
        if image.format == "PNG":
            # Loading a PNG skips the checksums of its pixel data; verifying uses the image up.
            image.verify()
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise DataError("not an image in a known format") from None
    except Image.DecompressionBombError:
        raise DataError(f"its pixels exceed the limit of {PIXEL_LIMIT}") from None
    except DataError:
        raise
    # Pillow's decoders fail on damaged input with whatever their parsing runs into.
    except Exception as error:
        raise DataError(f"damaged image: {error or type(error).__name__}") from error


def to_canvas(image: np.ndarray | Image.Image, size: int, channels: int) -> np.ndarray:
    """One image as the packed store holds it.

    Transparency is put on white; 16-bit values are scaled to 8 bits; floats are taken to lie in
    [0, 1]. Resizing is bicubic with antialiasing.

    Args:
        image: Pillow image, or array (H, W) or (H, W, 1 | 3 | 4) of bool, integers or floats.
        size: Side of the square in pixels.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        Array (size, size, channels), uint8.

    Raises:
        DataError: The array has no image's shape, or values that are no pixel values.
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


def _from_array(array: np.ndarray) -> Image.Image:
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise DataError(f"an image is (H, W) or (H, W, 1 | 3 | 4), not {array.shape}")
    if array.shape[0] * array.shape[1] > PIXEL_LIMIT:
        raise DataError(f"its pixels exceed the limit of {PIXEL_LIMIT}")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise DataError(f"values {array.min()} to {array.max()} lie outside 0 to 255")
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise DataError("holds NaN or infinite values")
        if array.min() < 0 or array.max() > 1:
            raise DataError(
                f"float values {array.min():g} to {array.max():g} lie outside [0, 1]; "
                "scale them, or give uint8"
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise DataError(f"values of type {array.dtype} are no pixels")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        image = _from_array(np.asarray(image))
    elif image.mode.startswith("I"):
        # Pillow opens 16-bit files as I;16 or, by the format, as I (32-bit).
        image = _from_array(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        image = Image.alpha_composite(white, colours)
    return image if image.mode == mode else image.convert(mode)
