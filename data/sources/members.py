"""The files that a folder or an archive holds, by name; nothing is ever unpacked.

Whoever filled it is not trusted. Names only label; a link counts for what it leads to, and only
inside; what is not a file (a pipe, a device) is never opened. Each of these has a reader that
refuses it with a reason, so that it is counted and not passed over in silence. A link to a folder
says how many images lie behind it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from data.errors import DataError
from data.images.formats import unread_by_name
from data.images.reading import EXTENSIONS
from data.sources.file_names import escaped

Reader = Callable[[int], bytes]
"""Reads at most so many bytes from a file's start."""

NO_FILE = "not a file (a pipe, a socket or a device)"
LINK_OUT = "a link that leads out of the data"
LINK_TO_FOLDER = "a link to a folder, which is not followed"
LINK_TO_NOTHING = "a link that leads to no file"


class Member(NamedTuple):
    """One entry that is not a folder."""

    name: str
    """With ``/`` between its parts."""
    read: Reader
    regular: bool = True
    """Whether it is a file, or a link to one inside."""
    size: int = 0
    """In bytes, as an archive declares it; 0 in a folder."""
    behind: int | None = 0
    """Of a link to a folder: how many images it holds, by their names; None if that is unknown."""


class Container(Protocol):
    """What holds files by name."""

    def members(self) -> Iterator[Member]:
        """Every entry that is not a folder, once."""
        ...

    def close(self) -> None:
        """Release open files."""
        ...


def _refused(reason: str, _limit: int) -> NoReturn:
    raise DataError(reason)


def refuse(name: str, reason: str, behind: int | None = 0) -> Member:
    """An entry whose reader raises DataError with the reason."""
    return Member(name, partial(_refused, reason), regular=False, behind=behind)


def named_as_image(name: str) -> bool:
    """Whether a file's name is that of an image, of a format that is read or not."""
    return name.lower().endswith(EXTENSIONS) or unread_by_name(name) is not None


def images_unless_folder(name: str) -> int | None:
    """What lies behind a link that leads nowhere: nothing, unless it may have been a folder's."""
    return 0 if named_as_image(name) else None


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a folder or file that the system does not let us read."""
    return DataError(
        f"data.path: {escaped(str(path))} cannot be read ({error.strerror}); fix its owner or "
        "mode, or move it away."
    )


def damaged(path: Path, error: object) -> DataError:
    """The error for an archive that cannot be parsed."""
    return DataError(f"data.path: {path} is damaged ({error}); copy or pack it again.")
