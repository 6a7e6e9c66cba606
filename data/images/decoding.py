"""Samples to canvases on all cores, in order, with a bounded number of images in flight."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.images.reading import PIXEL_LIMIT, load_image, open_image, to_canvas
from data.samples import Sample

# Large enough that handing over costs nothing beside the work, small enough to stay in cache; and,
# of large images, so few that all chunks in flight fit into memory.
CHUNK, CHUNK_BYTES = 32, 4 << 20


class Room:
    """Bounds the pixels that all threads together hold decoded.

    An image takes up to 16 bytes a pixel on its way. Photographs are many at once; of images near
    `PIXEL_LIMIT`, as bombs are, one: eight of them would take 11 GB.
    """

    def __init__(self, pixels: int):
        self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def for_image(self, pixels: int) -> Iterator[None]:
        """Wait until the others leave room for an image, which must fit in by itself."""
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_ROOM = Room(PIXEL_LIMIT)


class Canvas(NamedTuple):
    """What became of one sample: pixels and their SHA-256, or the reason why there are none."""

    sample: Sample
    pixels: np.ndarray | None
    digest: bytes | None
    reason: str | None


def canvases(samples: Iterable[Sample], size: int, channels: int) -> Iterator[Canvas]:
    """Decode, validate and resize `samples`, keeping their order.

    Threads suffice: Pillow lets go of the interpreter while it decodes and resizes.
    """
    threads = min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        pending: deque[Future[list[Canvas]]] = deque()
        try:
            for chunk in _chunks(samples, size * size * channels):
                pending.append(pool.submit(_decode_all, chunk, size, channels))
                if len(pending) > 2 * threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _chunks(samples: Iterable[Sample], canvas_bytes: int) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    held = 0
    for sample in samples:
        chunk.append(sample)
        held += canvas_bytes + getattr(sample.content, "nbytes", 0)
        if len(chunk) == CHUNK or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decode_all(chunk: list[Sample], size: int, channels: int) -> list[Canvas]:
    return [_decode_one(sample, size, channels) for sample in chunk]


def _decode_one(sample: Sample, size: int, channels: int) -> Canvas:
    content = sample.content
    try:
        if isinstance(content, np.ndarray):
            pixels = to_canvas(content, size, channels)
        else:
            image = open_image(content(), sample.source)
            with _ROOM.for_image(image.width * image.height):
                pixels = to_canvas(load_image(image), size, channels)
    except DataError as error:
        return Canvas(sample, None, None, str(error))
    except MemoryError:
        raise
    # A file that cannot be read (permissions, a bad disk block, a damaged zip member) is as lost
    # as one that cannot be decoded, and no reason to lose the others.
    except Exception as error:
        # An OSError's own words hold the path, which is not part of the result.
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Canvas(sample, None, None, f"cannot be read: {said}")
    return Canvas(sample, pixels, sha256(pixels.data).digest(), None)
