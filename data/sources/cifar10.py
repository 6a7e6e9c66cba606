"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 RGB 32×32 images.

The *binary* version is read: the one that most tools take is a pickle, which runs code on loading.
"""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data.errors import DataError
from data.samples import Counts, Sample, Split
from data.sources import download
from data.sources.params import DataParams

NAME = "cifar10"
FILE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{FILE}"
CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
COUNTS = Counts((5_000,) * len(CLASSES), unlabelled=0)
MEMBERS: dict[Split, list[str]] = {
    "test": ["test_batch.bin"],
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
}
RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes


class Cifar10:
    """The official train and test sets, out of ``cifar-10-binary.tar.gz``."""

    classes = CLASSES
    total = 60_000
    test_from: str | None = "the data set's own"
    counts = COUNTS
    passed_over: Mapping[str, int] = MappingProxyType({})
    notes: Sequence[str] = ()

    def __init__(self, params: DataParams):
        pinned = Path(params.path)
        expected = download.pinned_checksums(pinned).get(FILE)
        if expected is None:
            raise DataError(
                f"{pinned} has no checksum of {FILE}; it is not CIFAR-10's: set data.path to "
                "data/pinned/cifar10.sha256."
            )
        self._archive = _locate(expected)
        with self._archive.open("rb") as file:
            download.check(self._archive, download.sha256_of(file), expected, pinned)

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        for split, members in MEMBERS.items():
            # Read as a stream, once for each split: the test set lies last in the archive.
            with tarfile.open(self._archive, "r|gz") as archive:
                for member in archive:
                    name = member.name.rpartition("/")[2]
                    file = archive.extractfile(member) if name in members else None
                    if file is not None:
                        yield from _records(file.read(), split, name.removesuffix(".bin"))

    def close(self) -> None:
        """Nothing stays open."""


def _records(content: bytes, split: Split, name: str) -> Iterator[Sample]:
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    for number, (image, label) in enumerate(zip(images, records[:, 0].tolist(), strict=True)):
        yield Sample(f"{name}/{number:05d}", split, label, image)


def _locate(expected: str) -> Path:
    places = download.places_to_look(NAME)
    if found := download.find(FILE, places):
        return found
    target = download.raw_folder(NAME) / FILE
    try:
        download.download(URL, target, download.sha256_of, expected)
        return target
    except OSError as error:
        raise DataError(
            f"CIFAR-10's {FILE} was found in none of {', '.join(map(str, places))}, and the "
            f"download failed ({error}). Download {URL} elsewhere and put it into {target.parent}, "
            "or let INSTAR_DATASETS name its folder."
        ) from error
