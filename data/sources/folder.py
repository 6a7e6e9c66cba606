"""A user's own image files: a folder, or a ``.tar`` or ``.zip`` of one, read without unpacking.

Either ``<class>/<image>`` at the top, or ``train/<class>/…`` beside ``test/<class>/…`` (or, where
there is none, ``val/<class>/…`` as the test set); in both cases with an optional ``unlabelled/`` of
any depth. The top folder is the class, folders below it say nothing; an image in no folder counts
as unlabelled. Folders wrapped around all that are passed over. See `data.sources.folder_layout`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.images.reading import EXTENSIONS
from data.samples import Counts, Sample, Split
from data.sources.archives import open_container
from data.sources.file_names import escaped, unescaped
from data.sources.finding import find_images, whole
from data.sources.folder_layout import Layout, notes_on, read_layout
from data.sources.folder_names import look
from data.sources.members import Member, named_as_image
from data.sources.params import DataParams

SPLIT_ORDER: tuple[Split, ...] = ("test", "train", "unlabelled")


class Placed(NamedTuple):
    """An image file and where its name puts it."""

    name: str
    split: Split
    label: str | None
    read: Callable[[], bytes]


class Folder:
    """Images sorted by name within test, train and unlabelled."""

    def __init__(self, params: DataParams):
        self._path = Path(params.path)
        self._container = open_container(self._path)
        passed_over: Counter[str] = Counter()
        try:
            found = find_images(self._container, passed_over)
            layout = self._read_layout(found)
            self.notes: Sequence[str] = notes_on(layout)
            self._images = _place_all(found, layout)
            labels = Counter(image.label for image in self._images if image.split == "train")
            self.classes = sorted(label for label in labels if label is not None)
            has_test = any(image.split == "test" for image in self._images)
            self.test_from = layout.test_from if has_test else None
            self._require_classes(labels)
            self.counts = Counts(
                tuple(labels[name] for name in self.classes),
                sum(image.split == "unlabelled" for image in self._images),
            )
        except BaseException:
            self._container.close()
            raise
        self.total = len(self._images)
        self.passed_over: Mapping[str, int] = passed_over

    def samples(self) -> Iterator[Sample]:
        """See `Source.samples`."""
        positions = {name: position for position, name in enumerate(self.classes)}
        for image in self._images:
            label = None if image.label is None else positions[image.label]
            yield Sample(image.name, image.split, label, image.read)

    def close(self) -> None:
        """Close the archive, if it is one."""
        self._container.close()

    def _read_layout(self, found: Mapping[tuple[str, ...], Member]) -> Layout:
        # What is not a file tells nothing of the layout, unless its name says that it is an image.
        if not any(member.regular for member in found.values()):
            raise DataError(
                f"data.path: no images found in {self._path}; looked for files ending in "
                f"{', '.join(EXTENSIONS)} (hidden files and links out of the folder are passed "
                "over)."
            )
        return read_layout(parts for parts, member in found.items() if _tells(parts, member))

    def _require_classes(self, labels: Counter[str | None]) -> None:
        if len(self.classes) < 2:
            found = f"only the class {self.classes[0]!r}" if self.classes else "no class folder"
            raise DataError(
                f"data.path: {self._path} has {found}; labelled images must lie in a folder for "
                "each class, at least two of them (<class>/… or train/<class>/…)."
            )
        single = [name for name in self.classes if labels[name] < 2]
        if single and not self.test_from:
            raise DataError(
                f"data.path: class {single[0]!r} in {self._path} has a single image, so none can "
                "be split off for the test; add images, or bring a test/ folder."
            )
        for image in self._images:
            if image.split == "test" and image.label not in labels:
                alike = [name for name in self.classes if _alike(name, str(image.label))]
                hint = f" The training set has {alike[0]!a}: is it meant?" if alike else ""
                raise DataError(
                    f"data.path: {image.name} is a test image of class {image.label!r}, which has "
                    "no training image; add some to train/, or remove the class from the test."
                    f"{hint}"
                )


def _alike(one: str, other: str) -> bool:
    return look(unescaped(one)).casefold() == look(unescaped(other)).casefold()


def _tells(parts: tuple[str, ...], member: Member) -> bool:
    """Whether a member's name says something of the layout: a lost image counts too."""
    return member.regular or named_as_image(parts[-1])


def _place_all(found: Mapping[tuple[str, ...], Member], layout: Layout) -> list[Placed]:
    placed = []
    for parts, member in found.items():
        place: tuple[Split, str | None] | None = ("unlabelled", None)
        if _tells(parts, member):
            place = layout.place(parts)
        split, label = place or ("unlabelled", None)
        # Misplaced images are quarantined with a reason, as one that cannot be read is.
        read = partial(whole, member) if place else _misplaced
        placed.append(Placed(escaped("/".join(parts)), split, label, read))
    placed.sort(key=lambda image: (SPLIT_ORDER.index(image.split), image.name))
    return placed


def _misplaced() -> bytes:
    raise DataError("lies outside train/<class>/, test/<class>/, val/<class>/ and unlabelled/")
