"""What a source of images gives: samples, each with its name, split, label and content."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

Split = Literal["train", "test", "unlabelled"]


def id_of(source: str) -> str:
    """The short name of a sample, made of its source's name alone."""
    return hashlib.blake2b(source.encode(), digest_size=8).hexdigest()


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
    """How many files of it are not samples, by what they are."""
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
