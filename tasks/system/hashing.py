"""SHA-256 of files and folders, remembered while the file system says that nothing changed.

Raw data may be many gigabytes, and a run needs its hash several times, in several processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from tasks.errors import TaskError

MEMORY = Path(".instar") / "hashes.json"
# Two edits within one tick of the file system's clock look alike: what is so young is not
# remembered.
YOUNG_SECONDS = 2.0


def content_hash(root: Path, name: str) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder.

    Args:
        root: The checkout, whose `.instar/hashes.json` remembers.
        name: Path from there; data may also lie elsewhere, at an absolute path.

    Raises:
        TaskError: There is no such file or folder.
    """
    path = root / name
    files = _files(path)
    # Asked before the content is read: an edit meanwhile makes the memory useless, not wrong.
    stats = [file.stat() for file in files]
    looks = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats]
    names = [file.relative_to(path).as_posix() for file in files]
    stamp = digest(repr((names, looks)).encode())
    memory = _recall(root)
    match memory.get(name):
        case [known, str(found)] if known == stamp:
            return found
    found = _hash_all(path, files)
    if all(stat.st_mtime < time.time() - YOUNG_SECONDS for stat in stats):
        _remember(root, {**memory, name: [stamp, found]})
    return found


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        TaskError: There is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _missing(path) from None


def digest(content: bytes) -> str:
    """SHA-256 as hex digits."""
    return hashlib.sha256(content).hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise _missing(path)
    if not path.is_dir():
        return [path]
    every = sorted(path.rglob("*"))
    return [file for file in every if file.is_file() and "__pycache__" not in file.parts]


def _hash_all(path: Path, files: list[Path]) -> str:
    if not path.is_dir():
        return hash_file(path)
    listed = [f"{file.relative_to(path).as_posix()} {hash_file(file)}" for file in files]
    return digest("\n".join(listed).encode())


def _recall(root: Path) -> dict[str, list[str]]:
    try:
        memory = json.loads((root / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(root: Path, memory: dict[str, list[str]]) -> None:
    path = root / MEMORY
    new = path.with_suffix(f".{os.getpid()}")
    # What cannot be remembered is computed again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(memory), encoding="utf-8")
        new.replace(path)


def _missing(path: Path) -> TaskError:
    return TaskError(
        f"{path} is missing: if it is your own data, correct data.path; what a stage makes comes "
        "with `dvc repro` or `dvc pull`."
    )
