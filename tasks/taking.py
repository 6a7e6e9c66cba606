"""The checkout's present raw data, tracked or not, taken into a run's own worktree."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.errors import TaskError
from tasks.lineage import git
from tasks.presence import BUILT_IN, dvc_file_of
from tasks.project_files import read_yaml
from tasks.runner import dvc_complaint, run_dvc


def take_data(home: Path, place: Path) -> str | None:
    """Puts the raw data that lie in the checkout now into a worktree, for its run's commit to hold.

    The bytes go to the shared cache; a push brings them to the remote. Checkout, index and `.dvc`
    file of the user stay as they are.

    Args:
        home: The checkout.
        place: A worktree of it.

    Returns:
        The path that was taken, a folder around `data.path` if that is what a `.dvc` file tracks;
        None if there is nothing to take: a built-in set, or data elsewhere, which are read there.

    Raises:
        TaskError: They are not there, or DVC refuses.
    """
    data = read_yaml(place / "params.yaml")["data"]
    raw = str(data["path"])
    if data["source"] in BUILT_IN or not _inside(raw, home):
        return None
    if git(place, "ls-files", "--", raw):
        path = raw
        _copy(home / path, place / path)
        git(place, "add", "--all", "--", path)
        return path
    tracked = dvc_file_of(Path(raw), place)
    path = str(tracked.with_suffix("")) if tracked else _trackable(raw, place)
    if not (home / path).exists():
        raise TaskError(f"data.path: there is no {path} in the checkout to take: put it back.")
    _remove(place / path)
    answer = run_dvc(["add", "--quiet", str(home / path), "--out", path], place)
    if answer.returncode != 0:
        raise TaskError(f"data.path: {path} cannot be taken: {dvc_complaint(answer.stdout)}")
    # New ones too: the run's commit holds what the index of its worktree knows.
    git(place, "add", "--force", "--", f"{path}.dvc")
    ignore = Path(path).parent / ".gitignore"
    if (place / ignore).exists():
        git(place, "add", "--force", "--", str(ignore))
    return path


def _inside(path: str, home: Path) -> bool:
    return (home / path).resolve().is_relative_to(home.resolve()) and not Path(path).is_absolute()


def _trackable(path: str, place: Path) -> str:
    """The path, or the folder around it whose `.dvc` file git does not ignore: data/raw."""
    for candidate in (Path(path), *Path(path).parents):
        if not git(place, "check-ignore", f"{candidate}.dvc", check=False):
            return str(candidate)
    raise TaskError(f"data.path: git ignores {path}.dvc: move the data, or mend .gitignore.")


def _copy(source: Path, target: Path) -> None:
    _remove(target)
    if not source.exists():
        raise TaskError(f"data.path: there is no {source} to take: put it back.")
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
