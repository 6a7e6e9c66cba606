"""Images of the store as data URIs, small enough that hundreds fit one page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Larger images are shrunk to this: a report is looked at, not trained on.
LARGEST = 64
# From this size on photographs are far smaller as JPEG; below it PNG is as small and exact.
JPEG_FROM = 48


def data_uri(image: NDArray[np.uint8]) -> str:
    """Encode one image of the store (H, W, 1 or 3) as a `data:` URI; equal pixels, equal text."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(picture.size) >= JPEG_FROM:
        picture.save(buffer, "JPEG", quality=82, optimize=True)
        kind = "jpeg"
    else:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
