"""Raw data as another revision of git has them: their `.dvc` file, and what it tracks."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.errors import TaskError
from tasks.settings.data_path import BUILT_IN, dvc_file_of
from tasks.settings.loading import load_params
from tasks.settings.project_files import read_yaml
from tasks.system.unattended import git
from tasks.versioning.dvc import dvc_complaint, run_dvc


def use_data_of(revision: str, root: Path) -> None:
    """Puts the raw data of a revision in place of the present ones, in a workspace of its own.

    Args:
        revision: A commit, tag or branch.
        root: The workspace, whose `.dvc` file is changed; the run's commit will hold it.

    Raises:
        TaskError: DVC does not track the data, git has no such revision or none with these data, or
            neither cache nor remote holds them.
    """
    path = load_params(root / "params.yaml").data.path
    file = dvc_file_of(Path(path), root)
    if file is None:
        raise TaskError(
            f"data_revision: DVC does not track {path}, so there is one revision only: "
            f"`dvc add {path}` and commit the .dvc file."
        )
    commit = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if not commit:
        raise TaskError(f"data_revision: git knows no {revision}: give a commit, tag or branch.")
    if not git(root, "ls-tree", "--name-only", commit, "--", str(file), check=False):
        raise TaskError(
            f"data_revision: {revision} has no {file}: choose one that tracks the data."
        )
    git(root, "checkout", commit, "--", str(file))
    run_dvc(["fetch", str(file)], root)  # what is in the cache needs no remote
    answer = run_dvc(["checkout", "--quiet", "--force", str(file)], root)
    if answer.returncode != 0:
        raise TaskError(
            f"data_revision: neither cache nor remote holds {path} of {revision} "
            f"({dvc_complaint(answer.stdout)}): `dvc push` it where it is."
        )


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
        raise TaskError(f"data.path: {path} is not in the checkout: put it back.")
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
    raise TaskError(f"data.path: git ignores {path}.dvc: move the data, or correct .gitignore.")


def _copy(source: Path, target: Path) -> None:
    _remove(target)
    if not source.exists():
        raise TaskError(f"data.path: {source} does not exist: put it back.")
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
