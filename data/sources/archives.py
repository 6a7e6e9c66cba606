"""Opens a folder, ``.tar`` or ``.zip`` of image files, by what it is and not by its name."""

import zipfile
from pathlib import Path

from data.errors import DataError
from data.sources.directory import Directory
from data.sources.members import Container, unreadable
from data.sources.tar_archive import Tar, is_tar
from data.sources.zip_archive import Zip


def open_container(path: Path) -> Container:
    """The folder or archive at `path`.

    Raises:
        DataError: It is neither, cannot be read, or is damaged.
    """
    try:
        if path.is_dir():
            return Directory(path)
    except OSError as error:
        raise unreadable(path, error) from error
    require_file(path)
    # First: a tar whose last member is a zip would pass for one, as zips are known by their end.
    if is_tar(path):
        return Tar(path)
    if zipfile.is_zipfile(path):
        return Zip(path)
    raise DataError(
        f"data.path: {path} is not a folder, .zip or uncompressed .tar; unpack it, or pack the "
        "images again without compression (they are compressed already)."
    )


def require_file(path: Path) -> None:
    """Refuse what cannot be opened, or would block whoever opens it.

    Raises:
        DataError: `path` is missing, no regular file, or may not be read.
    """
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist; put your images there or correct the path."
        )
    if not path.is_file():
        raise DataError(f"data.path: {path} is neither a file nor a folder; correct the path.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error
