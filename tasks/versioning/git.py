"""What git is asked: commits, authors, untracked code, branches of runs."""

import getpass
import os
import shutil
import tempfile
from pathlib import Path

from tasks.errors import TaskError
from tasks.system.unattended import git

ROOMS = ("flows", "tasks", "models", "data")


def require_git(root: str | Path = ".") -> str:
    """Returns the commit that HEAD stands on.

    Raises:
        TaskError: git is not installed, or this is not a repository with at least one commit.
    """
    if shutil.which("git") is None:
        raise TaskError("git is not installed: install it, so that runs can be recorded.")
    head = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
    if head:
        return head
    if git(root, "rev-parse", "--git-dir", check=False):
        raise TaskError("This git repository has no commit yet: `git add -A && git commit` first.")
    raise TaskError(f"{Path(root).resolve()} is not a git repository: `git init` and commit first.")


def untracked_code(root: str | Path = ".") -> list[str]:
    """Files in the code rooms that git neither tracks nor ignores, so that no commit holds them."""
    require_git(root)
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *ROOMS)
    return sorted(name for name in listed.split("\0") if name)


def snapshot_commit(root: str | Path, run_id: str) -> str:
    """Puts the tracked tree as it lies, edits included, on the branch ``runs/<run_id>``.

    The user's branch, index and files are not touched: the tree is made in an index of its own. A
    tree equal to HEAD's makes no new commit, the branch then names HEAD; nor does a tree that the
    branch holds already.

    Returns:
        The commit's hash.
    """
    root = Path(root)
    head = require_git(root)
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    index = Path(git(root, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    with tempfile.TemporaryDirectory(prefix="instar-index-") as scratch:
        env = {**author(root), "GIT_INDEX_FILE": str(Path(scratch) / "index")}
        if index.exists():
            # A copy keeps git's cache of file times, so only what was edited is read again.
            shutil.copy2(index, env["GIT_INDEX_FILE"])
        else:
            git(top, "read-tree", head, env=env)
        git(top, "add", "--update", "--", ".", env=env)
        for name in ("dvc.lock", "params.yaml"):
            if (root / name).exists():
                git(root, "add", "--force", "--", name, env=env)
        tree = git(top, "write-tree", env=env)
        commit = _holding(root, tree, head, f"refs/heads/runs/{run_id}") or git(
            top, "commit-tree", tree, "-p", head, "-m", f"Run {run_id}", env=env
        )
    git(root, "update-ref", f"refs/heads/runs/{run_id}", commit)
    return commit


def drop_repetition(root: str | Path, run_id: str, commit: str) -> None:
    """Removes the branch `runs/<run_id>` if `commit`, which stays, holds the very same tree."""
    branch = f"refs/heads/runs/{run_id}"
    if git(root, "rev-parse", f"{branch}^{{tree}}") == git(root, "rev-parse", f"{commit}^{{tree}}"):
        git(root, "update-ref", "-d", branch)


def _holding(root: Path, tree: str, head: str, branch: str) -> str | None:
    """The commit that is `tree` already: HEAD, or a child of it on the branch."""
    if git(root, "rev-parse", f"{head}^{{tree}}") == tree:
        return head
    tip = git(root, "log", "-1", "--format=%T %P %H", branch, "--", check=False).split()
    return tip[2] if tip[:2] == [tree, head] and len(tip) == 3 else None


def author(root: str | Path) -> dict[str, str]:
    """Environment that lets git commit where nobody told it a name (a container, a fresh CI)."""
    found = {}
    for role in ("AUTHOR", "COMMITTER"):
        name = os.environ.get(f"GIT_{role}_NAME") or git(root, "config", "user.name", check=False)
        mail = os.environ.get(f"GIT_{role}_EMAIL") or git(root, "config", "user.email", check=False)
        found[f"GIT_{role}_NAME"] = name or os_user()
        found[f"GIT_{role}_EMAIL"] = mail or f"{os_user()}@localhost"
    return found


def os_user() -> str:
    """The login name; 'unknown' for a numeric user without one (arbitrary ids in containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
