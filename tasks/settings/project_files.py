"""The files of a project that git, DVC and people write: read, or refused by line and remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from tasks.errors import TaskError
from tasks.system.unattended import git

# What git leaves between the sides of a conflict (the third only with merge.conflictStyle=diff3).
_MARK = re.compile(rb"^(?:<{7}(?: .*)?|>{7}(?: .*)?|\|{7}(?: .*)?|={7})\r?$", re.MULTILINE)
_LOCK = "dvc.lock"
_LOCK_SCHEMA = "2.0"
# Read by DVC, by pip or by Prefect in ways of their own.
_TEXTS = (".dvc/config", ".dvc/config.local", ".dvcignore", "requirements.lock", "prefect.yaml")
_ANEW = "`instar run` then brings it up to date and takes from DVC's cache what was computed."


def require_readable(root: Path) -> None:
    """Refuse a project with a file that a merge or a crash has left broken.

    Raises:
        TaskError: Names the first such file, the line and the remedy.
    """
    for name in _TEXTS:
        if (root / name).is_file():
            _require_unmarked(root / name, (root / name).read_bytes())
    for name in ("params.yaml", "dvc.yaml"):
        read_yaml(root / name)
    if (root / _LOCK).exists():
        read_lock(root)
    for name in _dvc_files(root):
        if (root / name).is_file():  # and not deleted since
            read_yaml(root / name)


def require_merged(root: Path) -> None:
    """Refuse to record a tree that git itself holds for unfinished.

    Raises:
        TaskError: Names the files that are still in conflict.
    """
    if unmerged := _git_names(root, "diff", "--name-only", "--diff-filter=U", "-z"):
        raise TaskError(
            f"git has not finished a merge: {', '.join(unmerged)} is still in conflict. Resolve it "
            "and `git add` it (`git status` shows how to go on, or back), then try again."
        )


def read_lock(root: Path) -> dict[str, Any]:
    """What dvc.lock says; nothing if there is none.

    Raises:
        TaskError: It is not a lock file that DVC would take.
    """
    path = root / _LOCK
    if not path.exists():
        return {}
    lock = read_yaml(path)
    if problem := _problem_of_lock(lock):
        raise TaskError(f"{_shown(path)} is damaged ({problem}). {_remedy(path)}")
    return lock


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain dicts.

    Raises:
        TaskError: The file is missing, has conflict marks, or is not a mapping in YAML.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TaskError(f"{path} not found: run the command in the project's folder.") from None
    except IsADirectoryError:
        raise TaskError(
            f"{_shown(path)} is a folder, not a file. Move it away; {_remedy(path)}"
        ) from None
    _require_unmarked(path, content)
    return parse_yaml(content, _shown(path), _remedy(path))


def parse_yaml(content: bytes, name: str, remedy: str) -> dict[str, Any]:
    """A YAML mapping from its text; see `read_yaml`."""
    try:
        found = YAML(typ="safe", pure=True).load(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{name} is not UTF-8 text (line {line}). {remedy}") from None
    except YAMLError as error:
        raise TaskError(f"{name} is not valid YAML: {_problem(error)}. {remedy}") from None
    if not isinstance(found, dict):
        what = "is empty" if found is None else "holds no settings"
        raise TaskError(f"{name} {what}. {remedy}")
    return found


def require_unmarked(path: Path) -> None:
    """Refuse a file in which git has left the sides of a conflict.

    Raises:
        TaskError: Names the line and the remedy.
    """
    _require_unmarked(path, path.read_bytes())


def _require_unmarked(path: Path, content: bytes) -> None:
    found = _MARK.search(content)
    if not found:
        return
    line = content.count(b"\n", 0, found.start()) + 1
    mark = found[0].decode("utf-8", "replace").strip()
    raise TaskError(
        f"{_shown(path)} has conflict marks of a merge, the first in line {line} ({mark}). "
        f"{_remedy_of_conflict(path)}"
    )


def _remedy_of_conflict(path: Path) -> str:
    name = _shown(path)
    merging = _git_names(path.parent, "ls-files", "--unmerged", "-z", "--", path.name)
    if path.name != _LOCK and path.suffix not in (".dvc", ".lock"):
        then = f", and `git add {name}`" if merging else ""
        return f"Keep one side of each, delete the lines of the marks{then}."
    # Checksums of one side say nothing beside those of the other.
    side = f"`git checkout --ours {name}` (or --theirs) and `git add {name}`"
    if not merging:
        side = f"`git checkout COMMIT -- {name}`, with a commit from before the merge"
    then = {
        _LOCK: _ANEW,
        "requirements.lock": "`bash .ci/setup` then installs it.",
    }.get(path.name, f"`dvc checkout {name}` then brings the data of that side.")
    return f"Take one side whole: {side}; {then}"


def _remedy(path: Path) -> str:
    name = _shown(path)
    if path.name == _LOCK:
        return f"Restore it with `git checkout {name}`, or move it away; {_ANEW}"
    return f"Correct it there, or restore it with `git checkout {name}`."


def _problem(error: YAMLError) -> str:
    """In one line what the parser says in many."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    said = " ".join(str(error.problem).split())
    # Of a key that is there twice the values may be whole sections.
    said = re.sub(r"(found duplicate key \S+).*", r"\1", said)
    return f"line {error.problem_mark.line + 1}: {said}"


def _problem_of_lock(lock: dict[str, Any]) -> str | None:
    if str(lock.get("schema")) != _LOCK_SCHEMA:
        return f"its schema is {lock.get('schema')}, where DVC has {_LOCK_SCHEMA}"
    stages = lock.get("stages", {})
    if not isinstance(stages, dict):
        return "its stages are not a mapping"
    for name, stage in stages.items():
        if not isinstance(stage, dict) or "cmd" not in stage:
            return f"stage {name} has no cmd"
        for kind in ("deps", "outs"):
            for entry in stage.get(kind) or []:
                if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                    return f"stage {name} has {kind} without a path"
    return None


def _dvc_files(root: Path) -> list[str]:
    """The `.dvc` files that git tracks or would."""
    kinds = ("--cached", "--others", "--exclude-standard")
    return _git_names(root, "ls-files", "-z", *kinds, "--", "*.dvc")


def _git_names(root: Path, *arguments: str) -> list[str]:
    listed = git(root, *arguments, check=False)
    return sorted(set(filter(None, listed.split("\0"))))


def _shown(path: Path) -> str:
    """As one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
