"""What the served model is given, as images: paths, files' content, pixels, or tables of them.

What can be read in two ways is refused with both readings and how to say which: a guess would give
32 labels for one image of 32 lines.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHANNELS = (1, 3, 4)
# Shorter ones are no image's: of a path so long that is not there, one may say that it looks so.
BASE64_LENGTH = 64
LAYOUTS = "images come as (N, H, W) or (N, H, W, C) with C of 1, 3 or 4"


def as_images(
    model_input: Any, size: int, channels: int, dark: bool = False
) -> np.ndarray | list[Any]:
    """An array (N, H, W) or (N, H, W, C), or a list: of paths, bytes, arrays, Pillow images.

    Args:
        model_input: See `ServedModel.predict`.
        size: The model's own, in pixels.
        channels: The model's own. Of these, (3, size, size) is a batch for a model of grey images.
        dark: Whether the model learned from images of values 0 and 1.

    Raises:
        DataError: It is not an image, or may be read in two ways; both are named.
    """
    import numpy as np
    import pandas as pd
    from PIL import Image

    if isinstance(model_input, dict) or _holds(model_input, dict):
        model_input = _as_table(model_input)
    if isinstance(model_input, pd.DataFrame):
        return _from_table(model_input)
    if isinstance(model_input, str | Path | bytes | bytearray | memoryview | Image.Image):
        model_input = [model_input]
    if isinstance(model_input, pd.Series | pd.Index):
        model_input = model_input.tolist()
    if isinstance(model_input, list | tuple) and not _holds(model_input, (list, tuple, int, float)):
        images: np.ndarray | list[Any] = [
            _item(item, place) for place, item in enumerate(model_input)
        ]
    else:
        images = _from_array(_as_array(model_input), size, channels)
    arrays = [images] if isinstance(images, np.ndarray) else images
    if not dark:
        _require_brightness([array for array in arrays if isinstance(array, np.ndarray)])
    return images


def _holds(items: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether these are a list whose first item is of such a kind."""
    return isinstance(items, list | tuple) and bool(items) and isinstance(items[0], kinds)


def _as_table(rows: dict[str, Any] | Sequence[Any]) -> pd.DataFrame:
    """As JSON brings a table: MLflow's server hands `inputs` over as they are."""
    import pandas as pd

    if isinstance(rows, dict) and all(isinstance(item, str | bytes) for item in rows.values()):
        rows = [rows]
    try:
        return pd.DataFrame(rows)
    # By what they hold: pandas has no kind of error for this.
    except Exception as error:
        raise DataError(
            f"these rows make no table ({error}); give a list of {{'image': …}} or {{'path': …}}"
        ) from error


def _from_table(table: pd.DataFrame) -> list[Any]:
    columns = [name for name in table.columns if name in ("image", "path")]
    if not columns:
        raise DataError(
            "a table of images needs a column 'path' with the image files, or 'image' with their "
            "content"
        )
    if len(columns) > 1:
        raise DataError(
            f"the table has the columns {' and '.join(map(repr, columns))}, so that it does not "
            "say which are the images; leave one"
        )
    read = _encoded if columns == ["image"] else _path
    return [read(item, place) for place, item in enumerate(table[columns[0]].tolist())]


def _encoded(item: object, place: int) -> bytes:
    try:
        if isinstance(item, str):
            return base64.b64decode(item, validate=True)
    except ValueError as error:
        raise DataError(f"image {place}: not base64 ({error})") from error
    if not isinstance(item, bytes):
        raise DataError(f"image {place}: neither bytes nor base64, but {type(item).__name__}")
    return item


def _path(item: object, place: int) -> str:
    if not isinstance(item, str | Path):
        raise DataError(f"image {place}: not a path, but {item!r:.80}")
    text = str(item)
    if _is_base64_image(text) and not os.path.exists(text):
        raise DataError(
            f"image {place}: an image as base64, where a path is expected; give it in a column "
            "'image', or as {'image': …}"
        )
    return text


def _is_base64_image(text: str) -> bool:
    from data.images.reading import looks_like_image

    content = text.partition(";base64,")[2] or text
    if len(text) < BASE64_LENGTH:
        return False
    try:
        return looks_like_image(base64.b64decode(content[:1024], validate=True))
    except ValueError:
        return False


def _item(item: Any, place: int) -> Any:
    """One image of a list, which says of itself what it is."""
    from PIL import Image

    if isinstance(item, str | Path):
        return _path(item, place)
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, Image.Image):
        return item
    array = _as_array(item)
    if not _is_of_pixels(array):
        raise DataError(f"image {place}: neither a path, a file's content nor pixels: {item!r:.80}")
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in CHANNELS):
        return array
    if array.ndim == 3 and shape[0] in CHANNELS:
        raise DataError(
            f"image {place} is {shape}, its channels first; give it as np.moveaxis(image, 0, -1)"
        )
    raise DataError(
        f"image {place} is {shape}; in a list each is one image, (H, W) or (H, W, C) with C of 1, "
        "3 or 4"
    )


def _as_array(given: Any) -> np.ndarray:
    import numpy as np

    try:
        # A tensor of torch, which may be on another device or want gradients.
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    # By what is given: lists of unequal lengths, types that numpy does not have.
    except Exception as error:
        raise DataError(
            f"cannot be made an array ({str(error)[:200]}); images of unequal sizes go as a list "
            "of arrays, of paths or of {'image': <base64>}"
        ) from error


def _is_of_pixels(array: np.ndarray) -> bool:
    """Whether its values are truths, whole numbers or floats."""
    return array.dtype.kind in "biuf"


def _from_array(array: np.ndarray, size: int, channels: int) -> np.ndarray | list[Any]:
    if array.dtype.kind in "UO" and (array.ndim < 2 or array.shape[1:] == (1,)):
        if array.ndim == 0 and array.dtype == object:
            raise DataError(f"{LAYOUTS}, or as paths, not as {type(array.item()).__name__}")
        return [_item(item, place) for place, item in enumerate(array.ravel().tolist())]
    if not _is_of_pixels(array):
        raise DataError(
            f"{LAYOUTS} of numbers, not as {array.shape} of {array.dtype}; convert them with "
            "astype(np.uint8); paths and files' content go as a list"
        )
    if array.ndim == 1 and not array.size:
        return []
    readings = _readings(array.shape, size, channels)
    if not readings:
        raise DataError(f"{LAYOUTS}, not {array.shape}; {_nearest(array.shape)}")
    if len(readings) > 1:
        ways = "; ".join(f"{what}: then give {how}" for what, how in readings)
        raise DataError(f"an array {array.shape} can be read in {len(readings)} ways: {ways}")
    return array


def _readings(shape: tuple[int, ...], size: int, channels: int) -> list[tuple[str, str]]:
    """What an array of a shape may be, and how to give it so that it is nothing else."""
    found = []
    if len(shape) == 3:
        first, second, third = shape
        found.append((f"{first} grey images of {second}×{third}", "images[..., None]"))
        if third in CHANNELS:
            found.append((f"one image of {first}×{second} with {third} channels", "image[None]"))
        # What a model of grey images was made for, in a batch of three or four.
        own = channels == 1 and (second, third) == (size, size)
        if first in CHANNELS[1:] and not own:
            how = "np.moveaxis(image, 0, -1)[None]"
            found.append((f"one image of {second}×{third} with its {first} channels first", how))
    if len(shape) == 4 and shape[3] in CHANNELS:
        count, second, third, fourth = shape
        found.append((f"{count} images of {second}×{third} with {fourth} channels", "list(images)"))
        if second in CHANNELS[1:]:
            how = "list(np.moveaxis(images, 1, -1))"
            found.append((f"{count} of {third}×{fourth} with their {second} channels first", how))
    return found


def _nearest(shape: tuple[int, ...]) -> str:
    """What an array that is not images may have been meant to be."""
    if len(shape) == 4 and shape[1] in CHANNELS:
        return "put the channels last with np.moveaxis(images, 1, -1)"
    if len(shape) == 2:
        return (
            "one grey image goes as image[None], N images of one line each as "
            "images.reshape(N, H, W)"
        )
    return "put one image into a batch with image[None]"


def _require_brightness(arrays: Sequence[np.ndarray]) -> None:
    """Refuse whole numbers of which none is above 1.

    They are black and white, or floats in [0, 1] that were cut; as pixels of 256 all are black.
    """
    largest = [int(array.max()) for array in arrays if array.dtype.kind in "iu" and array.size]
    if len(largest) == len(arrays) and max(largest, default=0) == 1:
        raise DataError(
            "whole numbers of 0 and 1 alone are nearly black as pixels of 0 to 255; give black and "
            "white as bool, brightness as floats in [0, 1], and what is as dark as that as files"
        )
