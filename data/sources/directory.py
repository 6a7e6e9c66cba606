"""A folder of image files."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.files import open_regular, read_start
from data.sources.members import (
    LINK_OUT,
    LINK_TO_FOLDER,
    LINK_TO_NOTHING,
    NO_FILE,
    Member,
    images_unless_folder,
    named_as_image,
    refuse,
    unreadable,
)

# How many names are looked at behind a link: it may lead to a whole disk.
ENTRIES_BEHIND = 100_000


class Directory:
    """A folder of files. Links to folders are not followed, so none can lead in a circle."""

    def __init__(self, root: Path):
        self._root = root.resolve()

    def members(self) -> Iterator[Member]:
        """See `Container.members`.

        Raises:
            DataError: A folder cannot be listed: how much is lost with it is unknown.
        """
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                raise unreadable(folder, error) from error
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    yield self._member(Path(entry.path), entry)

    def close(self) -> None:
        """Nothing stays open."""

    def _member(self, path: Path, entry: os.DirEntry[str]) -> Member:
        name = path.relative_to(self._root).as_posix()
        if entry.is_symlink():
            target = Path(os.path.realpath(path))
            inside = target.is_relative_to(self._root)
            if target.is_dir():
                behind = 0 if path.is_relative_to(target) else _images_in(target)
                return refuse(name, LINK_TO_FOLDER if inside else LINK_OUT, behind)
            if not target.exists():
                reason = LINK_TO_NOTHING if inside else LINK_OUT
                return refuse(name, reason, images_unless_folder(name))
            if not inside:
                return refuse(name, LINK_OUT)
            path = target
            if not path.is_file():
                return refuse(name, NO_FILE)
        # A file that has just vanished is not a file either, and its reader will say so.
        elif not entry.is_file(follow_symlinks=False) and path.exists():
            return refuse(name, NO_FILE)
        return Member(name, partial(_read_path, path))


def _images_in(folder: Path) -> int | None:
    """How many images lie in a folder, by their names; None if that cannot be known."""
    unlisted: list[OSError] = []
    images = entries = 0
    for _, folders, files in os.walk(folder, onerror=unlisted.append):
        entries += len(folders) + len(files)
        images += sum(map(named_as_image, files))
        if entries > ENTRIES_BEHIND:
            break
    incomplete = unlisted or entries > ENTRIES_BEHIND
    return images or (None if incomplete else 0)


def _read_path(path: Path, limit: int) -> bytes:
    # It was resolved when listed: a link in its place is one that was put there since.
    with open_regular(path, follow=False) as file:
        return read_start(file, limit)
