"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 + 10,000 grey 28×28 images."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data.errors import DataError
from data.samples import Counts, Sample, Split
from data.sources import download
from data.sources.params import DataParams

NAME = "fashion-mnist"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
FILES: dict[Split, tuple[str, str, int]] = {
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
}
COUNTS = Counts((6_000,) * len(CLASSES), unlabelled=0)
IMAGES_HEADER, LABELS_HEADER, PIXELS = 16, 8, 28 * 28


class FashionMnist:
    """The official train and test sets, out of the four ``.gz`` files.

    What is pinned is the files' content: Debian's package and the original archive compress the
    same bytes differently.
    """

    classes = CLASSES
    total = sum(count for _, _, count in FILES.values())
    test_from: str | None = "the data set's own"
    counts = COUNTS
    passed_over: Mapping[str, int] = MappingProxyType({})
    notes: Sequence[str] = ()

    def __init__(self, params: DataParams):
        self._pinned = Path(params.path)
        self._checksums = download.pinned_checksums(self._pinned)
        needed = [name for images, labels, _ in FILES.values() for name in (images, labels)]
        if missing := [name for name in needed if name not in self._checksums]:
            raise DataError(
                f"{self._pinned} has no checksum of {missing[0]}; it is not Fashion-MNIST's: set "
                "data.path to data/pinned/fashion-mnist.sha256."
            )
        self._files = {name: _locate(name, self._checksums[name]) for name in needed}

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        for split, (images_name, labels_name, count) in FILES.items():
            images = self._read(images_name, IMAGES_HEADER).reshape(count, 28, 28, 1)
            labels = self._read(labels_name, LABELS_HEADER).tolist()
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Sample(f"{split}/{number:05d}", split, label, image)

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, name: str, header: int) -> np.ndarray:
        path = self._files[name]
        try:
            with gzip.open(path) as file:
                content = file.read()
        except (OSError, EOFError) as error:
            remedy = "delete it and run again."
            raise DataError(f"{path} cannot be unpacked ({error}); {remedy}") from error
        digest = hashlib.sha256(content).hexdigest()
        download.check(path, digest, self._checksums[name], self._pinned)
        return np.frombuffer(content, np.uint8, offset=header)


def _locate(name: str, expected: str) -> Path:
    file = f"{name}.gz"
    places = [*download.places_to_look(NAME), DEBIAN_FOLDER]
    if found := download.find(file, places):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get") and _install_debian_package():
        return DEBIAN_FOLDER / file
    target = download.raw_folder(NAME) / file
    problem: OSError | None = None
    for mirror in _mirrors():
        try:
            download.download(mirror + file, target, _unpacked_sha256, expected)
            return target
        except OSError as error:
            problem = error
    raise DataError(
        f"Fashion-MNIST's {file} was found in none of {', '.join(map(str, places))}, and the "
        f"download failed ({problem}). Install Debian's {DEBIAN_PACKAGE}, or put the four .gz "
        f"files into {target.parent}, or let INSTAR_DATASETS name their folder."
    )


def _unpacked_sha256(stream: BufferedIOBase) -> str:
    with gzip.open(stream) as file:
        return download.sha256_of(file)


def _mirrors() -> list[str]:
    from torchvision.datasets import FashionMNIST

    return FashionMNIST.mirrors


def _install_debian_package() -> bool:
    print(f"installing Debian's {DEBIAN_PACKAGE}", file=sys.stderr)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", DEBIAN_PACKAGE]
    # The list of packages may be absent or old, as in a fresh container: update, then try again.
    for command in (install, ["apt-get", "update"], install):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if command is install and done.returncode == 0:
            return all(
                (DEBIAN_FOLDER / f"{f[i]}.gz").is_file() for f in FILES.values() for i in (0, 1)
            )
    return False
