"""Where images come from: one file per kind of source, all giving the same stream of samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from data.params import DataParams

Split = Literal["train", "test", "unlabelled"]


class Sample(NamedTuple):
    """One image of a source, not yet decoded."""

    source: str
    """Its name in the source; unique, independent of where the source lies, and printable."""
    split: Split
    label: int | None
    """Position in the source's `classes`; None in the split "unlabelled"."""
    content: np.ndarray | Callable[[], bytes]
    """The pixels, or what reads the encoded file (called in a decoding thread)."""


class Counts(NamedTuple):
    """How many training images a source has, before any of them is decoded."""

    per_class: tuple[int, ...]
    """Labelled ones, in the order of the source's `classes`."""
    unlabelled: int


class Source(Protocol):
    """A set of images that is read once, in a fixed order."""

    classes: list[str]
    total: int
    """Number of samples."""
    test_from: str | None
    """Where its test set comes from, for a reader; None: it brings none, and one is split off."""
    counts: Counts
    passed_over: Mapping[str, int]
    """How many files of it are no samples, by what they are."""
    notes: Sequence[str]
    """What a reader should know of how it was understood."""

    def samples(self) -> Iterator[Sample]:
        """All samples: first test, then train, then unlabelled.

        With the test set first, of two equal images in train and test the later one, to be dropped
        as a duplicate, is always the one in train.
        """
        ...

    def close(self) -> None:
        """Release open files; contents not yet read cannot be read after that."""
        ...


def open_source(params: DataParams) -> Source:
    """The source that `params` names.

    Raises:
        DataError: It cannot be found, fetched or understood.
    """
    if params.source == "fashion-mnist":
        from data.sources.fashion_mnist import FashionMnist

        return FashionMnist(params)
    if params.source == "cifar10":
        from data.sources.cifar10 import Cifar10

        return Cifar10(params)
    if params.source == "npz":
        from data.sources.npz import Npz

        return Npz(params)
    from data.sources.folder import Folder

    return Folder(params)
