"""A ``.zip`` of image files."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.sources.members import NO_FILE, Member, damaged, images_unless_folder, refuse

# Of other methods Python inflates all that a few kilobytes hold, however little it is asked for.
INFLATED_IN_PARTS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Zip:
    """An archive of which each member is inflated only when it is read."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        # By what is damaged: BadZipFile, ValueError, NotImplementedError, struct.error and more.
        except Exception as error:
            raise damaged(path, error) from error

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
                yield refuse(
                    name, "a link in a .zip, which is not followed", images_unless_folder(name)
                )
            elif kind and not stat.S_ISREG(kind):
                yield refuse(name, NO_FILE)
            elif entry.compress_type not in INFLATED_IN_PARTS:
                yield refuse(name, "packed by another method than deflate: pack it again")
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
