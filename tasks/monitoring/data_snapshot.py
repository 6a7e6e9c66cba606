"""What lies at `data.path`, item by item, without opening an image: the cheap half of `watch`.

A file is read again only if its size or one of its times changed; the hashes of all others are
remembered in `.instar/watch/`. Hashes are DVC's own, so that the version of the data found here is
the one that dvc.lock names for a run that used them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.sources.archives import open_container
from data.sources.members import Container
from tasks.errors import TaskError
from tasks.settings.data_path import require_hashable
from tasks.system.atomic_files import keep_json
from tasks.system.hashing import YOUNG_SECONDS

WATCH = Path(".instar") / "watch"
_MEMORY = WATCH / "hashes.json"
# So much of an archive's member tells it from another of the same size; a bomb holds terabytes.
_LOOKED_AT = 1 << 20

Memory = Mapping[str, tuple[list[int], str]]


@dataclass(frozen=True)
class Listing:
    """The items of one state of the data.

    Attributes:
        version: DVC's md5 of it all; of a folder it ends in `.dir`.
        items: What tells each item's content, by its name in the data.
        newest: When a file or folder of it last changed, in Unix seconds.
    """

    version: str
    items: dict[str, str]
    newest: float


def list_data(root: Path, path: str) -> Listing:
    """What lies at `path` (from `root`) now.

    Raises:
        TaskError: There is nothing, or something that DVC cannot hash either.
    """
    place = root / path
    if not place.exists():
        raise TaskError(
            f"data.path: {path} does not exist, so it cannot be watched; put your images there or "
            "correct the path."
        )
    require_hashable(place)
    memory, fresh = _recall(root, path), {}
    newest = 0.0
    for name, file in _files(place, _ignored_in(root)):
        try:
            stat = os.stat(file)
            newest = max(newest, stat.st_ctime)
            if os.path.isdir(file):
                continue
            look = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = memory.get(name)
            fresh[name] = known if known and known[0] == look else (look, _md5(file))
        except FileNotFoundError:
            # Gone since it was listed, as what a copy writes first under another name.
            newest = time.time()
    # Two edits within one tick of the clock look alike: what is so young is hashed again.
    settled = time.time() - YOUNG_SECONDS
    old = {name: kept for name, kept in fresh.items() if kept[0][2] < settled * 1e9}
    if old != memory:
        keep_json(root / _MEMORY, {"path": path, "files": old})
    hashes = {name: md5 for name, (_, md5) in fresh.items()}
    if place.is_dir():
        return Listing(folder_version(hashes), hashes, newest)
    version = hashes[place.name]
    return Listing(version, items_of(root, version, place) or hashes, newest)


def items_of(root: Path, version: str, file: Path | None) -> dict[str, str] | None:
    """The items of a version of the data, as remembered, or as `file` (if given) holds them.

    Returns:
        None if it is neither remembered nor an archive.
    """
    remembered = root / WATCH / "listings" / f"{version}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(remembered.read_text(encoding="utf-8")))
    if file is None:
        return None
    try:
        archive = open_container(file)
    except DataError:
        return None
    with contextlib.closing(archive):
        items = _members(archive)
    keep_json(remembered, items)
    return items


def remember(root: Path, listing: Listing, former: str | None) -> None:
    """Keep the items, so that what changes against them can be named.

    Of the versions before only `former` is kept: a list of a million images takes 100 MB.
    """
    place = root / WATCH / "listings" / f"{listing.version}.json"
    if not place.exists():
        keep_json(place, listing.items)
    for other in place.parent.glob("*.json"):
        if other.stem not in (listing.version, former):
            other.unlink(missing_ok=True)


def folder_version(hashes: Mapping[str, str]) -> str:
    """DVC's md5 of a folder with these files: of the list of their names and md5."""
    listed = [{"md5": hashes[name], "relpath": name} for name in sorted(hashes)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _files(place: Path, ignored: _Ignored) -> Iterator[tuple[str, str]]:
    """Name in the data and path of each file, and of each folder (for its times)."""
    if not place.is_dir():
        yield place.name, str(place)
        return
    folders = [str(place)]
    while folders:
        folder = folders.pop()
        yield os.path.relpath(folder, place), folder
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if ignored(entry.path, is_folder):
                    continue
                if is_folder:
                    folders.append(entry.path)
                # A link to a folder is followed neither by DVC nor by `prepare`.
                elif entry.is_file():
                    yield os.path.relpath(entry.path, place).replace(os.sep, "/"), entry.path


class _Ignored:
    """What `.dvcignore` leaves out of the data, as DVC does."""

    def __init__(self, root: Path, lines: list[str]):
        from pathspec import GitIgnoreSpec

        self._root = root
        self._spec = GitIgnoreSpec.from_lines(lines)

    def __call__(self, path: str, is_folder: bool) -> bool:
        name = os.path.relpath(path, self._root)
        # Data elsewhere are none of its business.
        return not name.startswith("..") and self._spec.match_file(
            f"{name}/" if is_folder else name
        )


def _ignored_in(root: Path) -> _Ignored:
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        lines = (root / ".dvcignore").read_text(encoding="utf-8").splitlines()
    return _Ignored(root, [*lines, ".git/", ".hg/", ".dvc/"])


def _members(archive: Container) -> dict[str, str]:
    """Content of each member, as far as it is looked at; the last of a name counts."""
    items = {}
    for member in archive.members():
        try:
            start = member.read(_LOOKED_AT) if member.regular else b"no file"
        # By what is damaged: zlib.error, BadZipFile, EOFError and more; `prepare` reports it.
        except Exception:
            start = b"cannot be read"
        items[member.name] = f"{hashlib.md5(start).hexdigest()} {member.size}"
    return items


def _recall(root: Path, path: str) -> Memory:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        memory = json.loads((root / _MEMORY).read_text(encoding="utf-8"))
        if memory["path"] == path:
            return {name: (look, md5) for name, (look, md5) in memory["files"].items()}
    return {}


def _md5(file: str) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()
