"""Images to be classified, from a folder, an archive or an object store, in one fixed order.

Read as `prepare` reads a user's own images, but whatever lies where: names put nothing into a class
or a split. Files that are not images by name and content are passed over and counted; whatever else
cannot be read is given like the others, and its reader says why.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data.errors import DataError
from data.samples import Sample
from data.sources.archives import open_container
from data.sources.directory import Directory
from data.sources.file_names import escaped
from data.sources.finding import find_images, whole
from data.sources.members import Container
from data.sources.s3 import Bucket


class Incoming:
    """The images of a place, sorted by name.

    Attributes:
        total: How many there are.
        passed_over: Files that are not images, hidden or replaced, by what they are.
        fingerprint: Changes with any name, size or time of change.
    """

    def __init__(self, place: str):
        with _naming_the_option():
            self._container = _open(place)
        self.passed_over: Counter[str] = Counter()
        try:
            with _naming_the_option():
                found = find_images(self._container, self.passed_over)
            self._members = sorted((escaped("/".join(parts)), m) for parts, m in found.items())
            self.fingerprint = self._take_fingerprint(place)
        except BaseException:
            self._container.close()
            raise
        self.total = len(self._members)
        if not self.total:
            self.close()
            raise DataError(
                f"--input: no images found in {place}, only {self.passed_over.total()} other "
                "files; name a folder, .tar, .zip or s3:// prefix that holds some."
            )

    def samples(self, start: int, stop: int) -> Iterator[Sample]:
        """Those from one position to another, in their order."""
        for name, member in self._members[start:stop]:
            yield Sample(name, "unlabelled", None, partial(whole, member))

    def require_answers(self) -> None:
        """See that what could not be read was the image's fault.

        Raises:
            DataError: The object store stopped answering.
        """
        if isinstance(self._container, Bucket):
            self._container.require_answers()

    def close(self) -> None:
        """Release open files; nothing can be read after that."""
        self._container.close()

    def _take_fingerprint(self, place: str) -> str:
        hashed = hashlib.sha256()
        archive = not isinstance(self._container, Directory | Bucket)
        if archive:
            hashed.update(_state(Path(place)))
        for name, member in self._members:
            hashed.update(f"\n{name}\t{member.size}\t".encode())
            if isinstance(self._container, Bucket):
                hashed.update(self._container.state(member.name))
            elif not archive:
                hashed.update(_state(Path(place) / member.name))
        return hashed.hexdigest()


def _open(place: str) -> Container:
    if place.startswith("s3://"):
        return Bucket(place)
    return open_container(Path(place))


@contextmanager
def _naming_the_option() -> Iterator[None]:
    """What is read is named by an option here, not by a setting."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("data.path:", "--input:", 1)) from error


def _state(path: Path) -> bytes:
    """What changes when a file does; nothing of one that is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return b""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}".encode()
