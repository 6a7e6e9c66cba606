"""What holds files by name: a folder, a ``.tar`` or a ``.zip``. Nothing is ever unpacked.

Whoever filled it is not trusted. Names only label; a link counts for what it leads to, and only
inside; what is no file (a pipe, a device) is never opened. Each of these is given with a reader
that refuses it with a reason, so that it is counted and not passed over in silence. A link to a
folder says how many images lie behind it.
"""

import io
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, Protocol

from data.errors import DataError
from data.files import open_regular, read_start
from data.images.formats import unread_by_name
from data.images.reading import EXTENSIONS
from data.sources.file_names import escaped

Reader = Callable[[int], bytes]
"""Reads at most so many bytes from a file's start."""

# Links in a tar lead to links; a few in a row are honest.
LINK_DEPTH = 16
# A tar's own records (long names, attributes) are held in memory; honest ones take a few kilobytes.
TAR_RECORD_BYTES = 16 << 20
# No file system takes longer ones.
NAME_LIMIT = 4096
# How many names are looked at behind a link: it may lead to a whole disk.
ENTRIES_BEHIND = 100_000
NO_FILE = "not a file (a pipe, a socket or a device)"
LINK_OUT = "a link that leads out of the data"
LINK_TO_FOLDER = "a link to a folder, which is not followed"
LINK_TO_NOTHING = "a link that leads to no file"


class Member(NamedTuple):
    """One entry that is no folder."""

    name: str
    """With ``/`` between its parts."""
    read: Reader
    regular: bool = True
    """Whether it is a file, or a link to one inside."""
    size: int = 0
    """In bytes, as an archive declares it; 0 in a folder."""
    behind: int | None = 0
    """Of a link to a folder: how many images it holds, by their names; None if nobody can say."""


class Container(Protocol):
    """What holds files by name."""

    def members(self) -> Iterator[Member]:
        """Every entry that is no folder, once."""
        ...

    def close(self) -> None:
        """Release open files."""
        ...


def open_container(path: Path) -> Container:
    """The folder or archive at `path`.

    Raises:
        DataError: It is neither, cannot be read, or is damaged.
    """
    try:
        if path.is_dir():
            return Directory(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    require_file(path)
    # First: a tar whose last member is a zip would pass for one, as zips are known by their end.
    if _is_tar(path):
        return Tar(path)
    if zipfile.is_zipfile(path):
        return Zip(path)
    raise DataError(
        f"data.path: {path} is no folder, .zip or uncompressed .tar; unpack it, or pack the images "
        "again without compression (they are compressed already)."
    )


def require_file(path: Path) -> None:
    """Refuse what cannot be opened, or would block whoever opens it.

    Raises:
        DataError: `path` is missing, no regular file, or may not be read.
    """
    if not path.exists():
        raise DataError(
            f"data.path: there is no {path}; put your images there or correct the path."
        )
    if not path.is_file():
        raise DataError(f"data.path: {path} is no file and no folder; correct the path.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error


def _refused(reason: str, _limit: int) -> NoReturn:
    raise DataError(reason)


def _refuse(name: str, reason: str, behind: int | None = 0) -> Member:
    return Member(name, partial(_refused, reason), regular=False, behind=behind)


def named_as_image(name: str) -> bool:
    """Whether a file's name is that of an image, of a format that is read or not."""
    return name.lower().endswith(EXTENSIONS) or unread_by_name(name) is not None


def _unless_folder(name: str) -> int | None:
    """What lies behind a link that leads nowhere: nothing, unless it may have been a folder's."""
    return 0 if named_as_image(name) else None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"data.path: {escaped(str(path))} cannot be read ({error.strerror}); mend its owner or "
        "mode, or move it away."
    )


def _damaged(path: Path, error: object) -> DataError:
    return DataError(f"data.path: {path} is damaged ({error}); copy or pack it again.")


class Directory:
    """A folder of files. Links to folders are not followed, so none can lead in a circle."""

    def __init__(self, root: Path):
        self._root = root.resolve()

    def members(self) -> Iterator[Member]:
        """See `Container.members`.

        Raises:
            DataError: A folder cannot be listed: how much is lost with it, nobody knows.
        """
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                raise _unreadable(folder, error) from error
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
                return _refuse(name, LINK_TO_FOLDER if inside else LINK_OUT, behind)
            if not target.exists():
                reason = LINK_TO_NOTHING if inside else LINK_OUT
                return _refuse(name, reason, _unless_folder(name))
            if not inside:
                return _refuse(name, LINK_OUT)
            path = target
            if not path.is_file():
                return _refuse(name, NO_FILE)
        # A file that has just vanished is no file either, and its reader will say so.
        elif not entry.is_file(follow_symlinks=False) and path.exists():
            return _refuse(name, NO_FILE)
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
            raise _damaged(path, error) from error
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
                return _refuse(name, LINK_TO_FOLDER, self._images_in(entry.leads_to, _plain(name)))
            if entry.leads_to not in self._named:
                inside = entry.leads_to and not entry.leads_to.startswith("../")
                reason = LINK_TO_NOTHING if inside else LINK_OUT
                return _refuse(name, reason, _unless_folder(name))
            entry = self._named[entry.leads_to]
        match entry.kind:
            case "file":
                read = partial(self._read, entry.offset, entry.size)
                return Member(name, read, size=entry.size)
            case "link":
                return _refuse(name, LINK_TO_NOTHING)
            case "sparse":
                return _refuse(name, "a sparse member of the .tar; pack it again without --sparse")
            case _:
                return _refuse(name, NO_FILE)

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


def _is_tar(path: Path) -> bool:
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


# Of other methods Python inflates all that a few kilobytes hold, however little it is asked for.
INFLATED_IN_PARTS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Zip:
    """An archive of which each member is inflated only when it is read."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        # By what is damaged: BadZipFile, ValueError, NotImplementedError, struct.error and more.
        except Exception as error:
            raise _damaged(path, error) from error

    def members(self) -> Iterator[Member]:
        """See `Container.members`."""
        for entry in self._zip.infolist():
            # Some tools on Windows write backslashes, against the format.
            name = _name_in_zip(entry).replace("\\", "/")
            # Made on a system with modes; the type is zero where only permissions were kept.
            kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
            if entry.is_dir() or name.endswith("/"):
                continue
            if stat.S_ISLNK(kind):
                yield _refuse(name, "a link in a .zip, which is not followed", _unless_folder(name))
            elif kind and not stat.S_ISREG(kind):
                yield _refuse(name, NO_FILE)
            elif entry.compress_type not in INFLATED_IN_PARTS:
                yield _refuse(name, "packed by another method than deflate: pack it again")
            else:
                yield Member(name, partial(self._read, entry), size=entry.file_size)

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()

    def _read(self, entry: zipfile.ZipInfo, limit: int) -> bytes:
        # A few kilobytes of zip can hold terabytes of zeros: never more than asked for, and in
        # parts, since a single read would copy all it has at every step.
        content = io.BytesIO()
        with self._zip.open(entry) as file:
            while part := file.read(min(1 << 20, limit - content.tell())):
                content.write(part)
        return content.getvalue()


# An entry's flag: its name is UTF-8; and the extra field in which Info-ZIP gives such a name.
_UTF8_FLAG, _UNICODE_PATH = 0x800, 0x7075


def _name_in_zip(entry: zipfile.ZipInfo) -> str:
    """An entry's name as who packed it wrote it.

    Many tools write UTF-8 without the flag that says so, which the format reads as the code page
    437 of the first PCs. Bytes of another encoding are hardly ever valid UTF-8.
    """
    if entry.flag_bits & _UTF8_FLAG or entry.filename.isascii():
        return entry.filename
    try:
        # Of a name with a zero byte only a part is kept.
        stored = entry.orig_filename.partition("\0")[0].encode("cp437")
        return _unicode_path(entry.extra, stored) or stored.decode("utf-8")
    except UnicodeError:
        return entry.filename


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    """The name in Info-ZIP's field, if there is one and it belongs to the stored name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            checksum = int.from_bytes(field[1:5], "little")
            if checksum == zlib.crc32(stored):
                return field[5:].decode("utf-8")
    return None
