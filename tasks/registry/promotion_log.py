"""The promotion log: every move of a version, one line each, never changed afterwards.

Each line carries the hash of all the text before it, so that an edit, a removal or an insertion
shows. A copy lies in git (`registry.promotion_log_git`), from which a lost log comes back. Whoever
appends holds `transitions.one_at_a_time`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.registry import promotion_log_git
from tasks.system.atomic_files import replace

# The evidence of a line that took a champion back to one before.
ROLLED_BACK = "rolled_back"

PROMOTIONS = Path(".instar") / "promotions.jsonl"
# The key of the hash of all that stands before a line; lines of before there were hashes lack it.
BEFORE = "before"
# How the line of a version begins that another one took the place of.
REPLACED = "replaced by version"
# The key of the evidence, and the version's tag, that say who rejected or rolled it back, and why.
REJECTED = "rejected"


def promotions(root: str | Path = ".") -> list[dict[str, Any]]:
    """The promotion log, oldest first.

    Raises:
        TaskError: A line is not what was once written, and which is the first.
    """
    return _verified(_whole(root))


def append(root: str | Path, moves: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines, on disk when this returns, and copies the log into git."""
    restore(root)
    text = _whole(root)
    _verified(text)
    added = ""
    for move in moves:
        before = hashlib.sha256((text + added).encode()).hexdigest()
        added += json.dumps({BEFORE: before, **move}) + "\n"
    if added:
        home(root).parent.mkdir(parents=True, exist_ok=True)
        with open(home(root), "a", encoding="utf-8") as file:
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
    mirror(root)


def restore(root: str | Path) -> None:
    """Puts lines back that the file has lost, and drops one that was written in part."""
    text, path = _whole(root), home(root)
    if text == (path.read_text(encoding="utf-8") if path.exists() else ""):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text)


def mirror(root: str | Path) -> None:
    """Brings git's copy up to date."""
    text = _whole(root)
    if text and text != promotion_log_git.text_of(root):
        promotion_log_git.keep(root, home(root), len(text.splitlines()))


def stood(lines: Iterable[Mapping[str, Any]], name: str) -> dict[str, str]:
    """Who stands on each place after these lines, by place."""
    held: dict[str, str] = {}
    for line in lines:
        if line["name"] == name:
            held = {place: version for place, version in held.items() if version != line["version"]}
            if line["to"] != "archived":
                held[line["to"]] = line["version"]
    return held


def rejections(lines: Iterable[Mapping[str, Any]], name: str) -> dict[str, str]:
    """Why the gate does not promote a version again, by version; a champion is forgiven."""
    found: dict[str, str] = {}
    for line in lines:
        if line["name"] == name and line["to"] == "champion":
            found.pop(line["version"], None)
        elif line["name"] == name and REJECTED in line["evidence"]:
            found[line["version"]] = line["evidence"][REJECTED]
    return found


def now() -> str:
    """The time as lines bear it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def home(root: str | Path) -> Path:
    """Where the log really lies: a worktree only has a link to it."""
    return (Path(root) / PROMOTIONS).resolve()


def _whole(root: str | Path) -> str:
    """All complete lines, from the file or from git where the file has lost them.

    Raises:
        TaskError: The two tell different stories.
    """
    # First the copy: whoever appends meanwhile writes the file first, so it is never behind.
    copied = promotion_log_git.text_of(root)
    path = home(root)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # A line without its end was never finished, nor acknowledged.
    text = text[: text.rfind("\n") + 1]
    if text.startswith(copied):
        return text
    if copied.startswith(text):
        return copied
    pairs = enumerate(zip(text.splitlines(), copied.splitlines(), strict=False), 1)
    number = next(number for number, (here, there) in pairs if here != there)
    copy = promotion_log_git.shown(root)
    raise TaskError(
        f"line {number} of {PROMOTIONS} is not the one that was logged: git's copy has another. "
        f"Compare (`git show {copy}`); to put the logged lines back: "
        f"`git show {copy} > {PROMOTIONS}`."
    )


def _verified(text: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    running, chained = hashlib.sha256(), False
    for number, raw in enumerate(text.splitlines(keepends=True), 1):
        try:
            line = json.loads(raw)
        except ValueError:
            raise _broken(number, "is not JSON") from None
        if line.get(BEFORE) not in (None, running.hexdigest()):
            was = "was changed, or one after it removed" if chained else "or one before was changed"
            raise _broken(max(number - 1, 1), was)
        if chained and BEFORE not in line:
            raise _broken(number, "lacks the hash of those before it")
        chained = chained or BEFORE in line
        running.update(raw.encode())
        lines.append(line)
    return lines


def _broken(number: int, how: str) -> TaskError:
    return TaskError(
        f"line {number} of {PROMOTIONS} {how}, so the log cannot be believed from there on: "
        "put the file of a backup, or git's copy of another clone, in its place "
        "(`git fetch --tags`, then move the file away: it comes back from git)."
    )


def former_champions(lines: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """The versions that a rollback would bring back, the next one first."""
    pile: list[str] = []
    vacant = False
    for line in lines:
        if line["name"] != name:
            continue
        version = line["version"]
        if line["to"] == "champion":
            if ROLLED_BACK in line["evidence"] and version in pile:
                while pile[-1] != version:
                    pile.pop()
            elif pile[-1:] != [version]:
                pile.append(version)
            vacant = False
        elif line["from"] == "champion" and not line["why"].startswith(REPLACED):
            # Withdrawn by hand: not what anybody wants back.
            pile = pile[:-1]
            vacant = True
    return pile[::-1] if vacant else pile[-2::-1]
