"""Reading of files that may be anything: a pipe, a device, or too large."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from data.errors import DataError

# Beyond what `PIXEL_LIMIT` pixels of 4 bytes take uncompressed.
BYTES_LIMIT = 512 << 20


def open_regular(path: Path, follow: bool = True) -> BinaryIO:
    """Open a file for reading, and only a file: whoever opens a pipe waits for its writer.

    Args:
        path: The file.
        follow: Whether it may be a link.

    Raises:
        DataError: It is a pipe, a device or the like.
        OSError: It is missing or cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError("not a file (a folder, a pipe, a socket or a device)")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path) -> bytes:
    """A file's content, of one that is too large for `decode` only so much that this can tell."""
    with open_regular(path) as file:
        return read_start(file, BYTES_LIMIT + 1)


def read_start(file: BinaryIO, limit: int) -> bytes:
    """At most `limit` bytes of a file just opened; room is made for no more than it has."""
    return file.read(min(limit, os.fstat(file.fileno()).st_size))


def require_few_bytes(size: int) -> None:
    """Refuse a file of so many bytes, before it is read if possible.

    Raises:
        DataError: They are more than `BYTES_LIMIT`.
    """
    if size > BYTES_LIMIT:
        raise DataError(f"the file is larger than {BYTES_LIMIT >> 20} MiB")
