"""Finding or downloading the files of a built-in set, held to the checksums in data/pinned/."""

import glob
import hashlib
import http.client
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from pathlib import Path

from data.errors import DataError

TIMEOUT_SECONDS = 30.0


def pinned_checksums(path: Path) -> dict[str, str]:
    """SHA-256 by file name, out of a file as ``sha256sum`` writes it.

    Raises:
        DataError: The file is missing or not in that form.
    """
    try:
        lines = path.read_text().splitlines()
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        return {name.lstrip("*"): digest for digest, name in pairs}
    except FileNotFoundError:
        raise DataError(
            f"data.path: {path} does not exist; a built-in set is named by its tracked file of "
            "checksums, e.g. data/pinned/fashion-mnist.sha256."
        ) from None
    except ValueError:
        raise DataError(f"{path} is not in the form of sha256sum; restore it from git.") from None


def places_to_look(name: str) -> list[Path]:
    """Folders or files that may hold the built-in set `name`, best first."""
    places = []
    if given := os.environ.get("INSTAR_DATASETS"):
        places += [Path(given), Path(given) / name]
    return [*places, raw_folder(name)]


def raw_folder(name: str) -> Path:
    """Where a download of the set `name` is put, in the checkout that the command runs in."""
    return Path("data/raw") / name


def find(file: str, places: Iterable[Path]) -> Path | None:
    """The first place that is, or is a folder holding, `file`."""
    for place in places:
        for candidate in (place, place / file):
            if candidate.name == file and candidate.is_file():
                return candidate
    return None


def check(path: Path, digest: str, expected: str, pinned: Path) -> None:
    """Refuse content that is not the pinned one.

    Raises:
        DataError: The digests differ.
    """
    if digest != expected:
        raise DataError(
            f"{path} is damaged or another file: its SHA-256 is not the one in {pinned}; "
            "delete it and run again."
        )


def sha256_of(stream: BufferedIOBase) -> str:
    """Hex SHA-256 of what is left in `stream`."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def download(url: str, to: Path, digest: Callable[[BufferedIOBase], str], expected: str) -> None:
    """Download `url` to `to`, which appears only once it is complete and has the right checksum.

    Raises:
        OSError: The download fails, or brings something else than expected.
    """
    print(f"downloading {url} to {to}", file=sys.stderr)
    to.parent.mkdir(parents=True, exist_ok=True)
    _drop_parts_of_the_dead(to)
    partial = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file, 1 << 20)
        with partial.open("rb") as file:
            if digest(file) != expected:
                raise OSError(f"{url} brought a file with another checksum")
        os.replace(partial, to)
    except (http.client.HTTPException, EOFError) as error:
        raise OSError(f"{url}: {error or type(error).__name__}") from error
    finally:
        partial.unlink(missing_ok=True)


def _drop_parts_of_the_dead(to: Path) -> None:
    """Remove what downloads left that were killed."""
    for part in to.parent.glob(f".{glob.escape(to.name)}.*.part"):
        if not Path("/proc", part.suffixes[-2][1:]).exists():
            part.unlink(missing_ok=True)
