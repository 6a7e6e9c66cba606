"""Images of the present store as another model takes them: of its own size and colour.

What was packed for one model is not what another was made for: enlarging a small image again, or
giving colour back to a grey one, shows it less than it would see in service. So the originals are
read again, if they are still those that were packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TaskError
from tasks.settings.loading import load_params

if TYPE_CHECKING:
    from data.samples import Sample
    from data.store.packed_store import PackedStore

# Images held in memory at once: so many, and so many bytes.
CHUNK, CHUNK_BYTES = 256, 64 << 20


def write_as_taken(
    root: Path,
    store: PackedStore,
    rows: NDArray[np.int64],
    model: Mapping[str, Any],
    name: str,
    path: Path,
) -> None:
    """Write images (N, size, size, channels) for a model as an .npy file.

    Args:
        root: The checkout, whose raw data are read if the model takes other shapes than the store
            has.
        store: Where the images are packed.
        rows: Those that are wanted, in this order.
        model: Its description: `size` and `channels`.
        name: The model, for errors.
        path: The file.

    Raises:
        TaskError: The originals are needed, and they are not here or not those that were packed.
    """
    from data.store.shards import images_within

    size, channels = model["size"], model["channels"]
    images = np.lib.format.open_memmap(
        path, "w+", np.dtype(np.uint8), (len(rows), size, size, channels)
    )
    own = store.manifest["size"], store.manifest["channels"]
    most = min(CHUNK, images_within(CHUNK_BYTES, max(size, own[0]), max(channels, own[1])))
    if (size, channels) == own:
        for start in range(0, len(rows), most):
            images[start : start + most] = store.gather(rows[start : start + most])
    else:
        written = _write_originals(root, store, rows, images, most, name)
        if written < len(rows):
            raise _not_here(root, name, f"{len(rows) - written} of {len(rows)} are not there")
    images.flush()


def _write_originals(
    root: Path,
    store: PackedStore,
    rows: NDArray[np.int64],
    images: NDArray[np.uint8],
    most: int,
    name: str,
) -> int:
    """Fill `images` from the raw data; gives how many were found unchanged."""
    from data.errors import DataError
    from data.images.decoding import canvases
    from data.samples import id_of
    from data.sources import open_source

    index = store.index.iloc[rows]
    places = {image: place for place, image in enumerate(index["id"])}
    digests = index["sha256"].tolist()
    params = load_params(root / "params.yaml").data
    params = params.model_copy(update={"path": str(root / params.path)})
    written = 0
    try:
        with closing(open_source(params)) as source:
            wanted = (sample for sample in source.samples() if id_of(sample.source) in places)
            for samples in _chunks(wanted, most):
                packed = canvases(samples, store.manifest["size"], store.manifest["channels"])
                taken = canvases(samples, *images.shape[2:])
                for before, now in zip(packed, taken, strict=True):
                    place = places[id_of(now.sample.source)]
                    digest = before.digest and before.digest.hex()
                    if now.pixels is not None and digest == digests[place]:
                        images[place] = now.pixels
                        written += 1
    except DataError as problem:
        raise _not_here(root, name, str(problem)) from None
    return written


def _chunks(samples: Iterator[Sample], most: int) -> Iterator[list[Sample]]:
    while chunk := list(islice(samples, most)):
        yield chunk


def _not_here(root: Path, name: str, why: str) -> TaskError:
    data = load_params(root / "params.yaml").data
    return TaskError(
        f"{name} takes images of another size or colour than the present store has, so it must be "
        f"shown the originals, and data.path ({data.path}) does not hold them as they were packed "
        f"({why}): bring them back, as with `dvc checkout`, and judge again."
    )
