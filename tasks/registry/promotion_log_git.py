"""Git's copy of the promotion log: a chain of commits of its own, whose newest has a tag.

The tag carries the copy to other clones: a new one for every state, `<number of lines>-<commit>`,
so that `git push --tags` never moves one that the other side has, be it of another checkout's log.
This checkout goes by a ref that neither push nor fetch knows: a colleague's tags must not stand in
for its own log. The user's branch, index and files are not touched.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.system.unattended import git
from tasks.versioning.git import author

# With a dot, which no model's name has: `instar/<model>/v1` are tags too.
TAGS = "instar/promotions.jsonl"
OWN = "refs/instar/promotions.jsonl"
FILE = "promotions.jsonl"


def text_of(root: str | Path) -> str:
    """The log as git has it; empty if it has none."""
    newest = _newest(root)
    # git() takes the last line's end off.
    return git(root, "cat-file", "blob", f"{newest}:{FILE}") + "\n" if newest else ""


def shown(root: str | Path) -> str:
    """The copy's name, for `git show`."""
    return f"{(_newest(root) or '').removeprefix('refs/tags/')}:{FILE}"


def keep(root: str | Path, log: Path, count: int) -> None:
    """Copies the log, which has `count` lines, on top of the copy before."""
    former = _newest(root)
    with tempfile.TemporaryDirectory(prefix="instar-index-") as scratch:
        env = {**author(root), "GIT_INDEX_FILE": str(Path(scratch) / "index")}
        blob = git(root, "hash-object", "-w", "--no-filters", str(log))
        git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{FILE}", env=env)
        tree = git(root, "write-tree", env=env)
        parent = ["-p", f"{former}^{{commit}}"] if former else []
        said = f"Promotion log, {count} lines"
        commit = git(root, "commit-tree", tree, *parent, "-m", said, env=env)
    before = _tags(root, "--points-at", former) if former else []
    git(root, "update-ref", f"refs/tags/{TAGS}/{count:06d}-{commit[:12]}", commit)
    # After the tag: a copy that broke off in between is made again.
    git(root, "update-ref", OWN, commit)
    for tag in before:
        # Its commit stays, as the parent of the new one.
        git(root, "update-ref", "-d", tag)


def _newest(root: str | Path) -> str | None:
    """The checkout's own copy; in a clone that has moved nothing yet, the one with most lines."""
    if git(root, "rev-parse", "--verify", "--quiet", OWN, check=False):
        return OWN
    return next(iter(_tags(root, "--sort=-refname")), None)


def _tags(root: str | Path, *which: str) -> list[str]:
    told = git(
        root, "for-each-ref", "--format=%(refname)", *which, f"refs/tags/{TAGS}/", check=False
    )
    return told.splitlines()
