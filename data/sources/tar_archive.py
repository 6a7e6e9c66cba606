"""An uncompressed ``.tar`` of image files."""

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from data.sources.members import (
    LINK_OUT,
    LINK_TO_FOLDER,
    LINK_TO_NOTHING,
    NO_FILE,
    Member,
    damaged,
    images_unless_folder,
    named_as_image,
    refuse,
)

# Links in a tar lead to links; a few in a row are honest.
LINK_DEPTH = 16
# A tar's own records (long names, attributes) are held in memory; honest ones take a few kilobytes.
TAR_RECORD_BYTES = 16 << 20
# No file system takes longer ones.
NAME_LIMIT = 4096


class Entry(NamedTuple):
    """What is kept of a tar's header: a few hundred bytes, for millions of members."""

    name: str
    kind: Literal["file", "link", "folder", "sparse", "other"]
    offset: int
    size: int
    leads_to: str | None
    """Where a link leads, as a name in the archive; None if out of it."""


class Tar:
    """An uncompressed archive; members are read at their offset, by any thread, in any order."""

    def __init__(self, path: Path):
        try:
            with _guarded(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                self._entries = list(_entries(tar))
        # By what is damaged: TarError, ValueError, EOFError, RecursionError and more.
        except Exception as error:
            raise damaged(path, error) from error
        self._named = {}
        self._folders: set[str] = set()
        # Only folders that a link names are of interest: names can be deep, and many.
        asked = {entry.leads_to for entry in self._entries if entry.leads_to}
        for entry in self._entries:
            name = _plain(entry.name)
            self._folders.update(asked.intersection(_folders_of(name, entry.kind == "folder")))
            # A file that was packed twice is a link to itself the second time.
            if entry.kind != "folder" and entry.leads_to != name:
                self._named[name] = entry
        self._descriptor = os.open(path, os.O_RDONLY)

    def members(self) -> Iterator[Member]:
        """See `Container.members`."""
        for entry in self._entries:
            if entry.kind != "folder":
                yield self._member(entry)

    def close(self) -> None:
        """Close the archive."""
        os.close(self._descriptor)

    def _member(self, entry: Entry) -> Member:
        name = entry.name
        for _ in range(LINK_DEPTH):
            if entry.kind != "link":
                break
            if entry.leads_to in self._folders:
                return refuse(name, LINK_TO_FOLDER, self._images_in(entry.leads_to, _plain(name)))
            if entry.leads_to not in self._named:
                inside = entry.leads_to and not entry.leads_to.startswith("../")
                reason = LINK_TO_NOTHING if inside else LINK_OUT
                return refuse(name, reason, images_unless_folder(name))
            entry = self._named[entry.leads_to]
        match entry.kind:
            case "file":
                read = partial(self._read, entry.offset, entry.size)
                return Member(name, read, size=entry.size)
            case "link":
                return refuse(name, LINK_TO_NOTHING)
            case "sparse":
                return refuse(name, "a sparse member of the .tar; pack it again without --sparse")
            case _:
                return refuse(name, NO_FILE)

    def _images_in(self, folder: str, link: str) -> int:
        """How many images lie in a folder; none is lost by a link that lies in it itself."""
        if link.startswith(f"{folder}/"):
            return 0
        return sum(name.startswith(f"{folder}/") and named_as_image(name) for name in self._named)

    def _read(self, offset: int, size: int, limit: int) -> bytes:
        return os.pread(self._descriptor, min(size, limit), offset)


class _Guarded(io.BufferedReader):
    """A file that refuses to give a whole disk's worth of bytes at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= TAR_RECORD_BYTES:
            raise tarfile.ReadError(f"a record claims {size} bytes")
        return super().read(size)


def _guarded(path: Path) -> _Guarded:
    return _Guarded(io.FileIO(path))


def is_tar(path: Path) -> bool:
    """Whether a file is an uncompressed tar that can be parsed up to its first header."""
    try:
        with _guarded(path) as file, tarfile.open(fileobj=file, mode="r:"):
            return True
    except Exception:
        return False


def _entries(tar: tarfile.TarFile) -> Iterator[Entry]:
    """What is kept of each header, in their order.

    Raises:
        tarfile.ReadError: A header leads back to one before it (a negative size does that), so that
            there is no last one; or it has a name that no file system would take.
    """
    last = -1
    for header in tar:
        if header.offset <= last:
            raise tarfile.ReadError("its headers lead back to each other")
        if len(header.name) > NAME_LIMIT or len(header.linkname) > NAME_LIMIT:
            raise tarfile.ReadError(f"a name of more than {NAME_LIMIT} characters")
        last = header.offset
        yield _entry(header)


def _entry(header: tarfile.TarInfo) -> Entry:
    kind: Literal["file", "link", "folder", "sparse", "other"]
    if header.isdir():
        kind = "folder"
    elif header.issym() or header.islnk():
        kind = "link"
    elif header.issparse():
        kind = "sparse"
    else:
        kind = "file" if header.isreg() else "other"
    leads_to = _target(header) if kind == "link" else None
    return Entry(header.name, kind, header.offset_data, header.size, leads_to)


def _target(link: tarfile.TarInfo) -> str | None:
    """What a link names: a hard link from the archive's top, any other from where it lies."""
    if link.islnk():
        return _plain(link.linkname)
    # An absolute one leads out, wherever the archive lies.
    if link.linkname.startswith("/"):
        return None
    return _plain(posixpath.join(posixpath.dirname(_plain(link.name)), link.linkname))


def _plain(name: str) -> str:
    return posixpath.normpath(name.lstrip("/"))


def _folders_of(name: str, is_folder: bool) -> Iterator[str]:
    """The folders that a member shows to be there: those it lies in, itself if it is one."""
    folder = name if is_folder else posixpath.dirname(name)
    while folder not in ("", "/"):
        yield folder
        folder = posixpath.dirname(folder)
