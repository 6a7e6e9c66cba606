"""Where a run works: the checkout itself under a lock, or an isolated git worktree.

Two runs never share a workspace. An isolated one is a worktree of HEAD on the main checkout's DVC
cache and remote; what must outlive it (journals, run records, promotion log) is linked back.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import TaskError
from tasks.system.locks import HeldError, held, saying_so
from tasks.system.unattended import git
from tasks.versioning.dvc import run_dvc
from tasks.versioning.dvc_remote import default_remote, dvc_settings, write_dvc_settings
from tasks.versioning.dvc_rwlock import dvc_holders
from tasks.versioning.git import require_git

# What a run writes under .instar/ that belongs to the checkout, not to one workspace. Errors and
# logs stay apart: two workspaces may run the same stage.
_SHARED_STATE = ("journal", "runs", "verdicts", "checkpoints", "quarantine", "locks")
_SHARED_FILES = ("promotions.jsonl",)


class BusyError(TaskError):
    """Another process works in this workspace."""


@contextmanager
def locked(root: Path | str, wait: bool = False, what: str = "run") -> Iterator[Path]:
    """Hold the checkout: no other run starts in it meanwhile.

    The kernel frees the lock when the holder dies, so there is nothing to clean up by hand.

    Args:
        root: The checkout.
        wait: Wait for the holder instead of refusing.
        what: What this process does, shown to those who find the lock taken.

    Raises:
        BusyError: Another process holds the lock and `wait` is false.
    """
    root = Path(root)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root / ".instar" / "lock", what, wait))
        except HeldError as other:
            raise BusyError(_busy(root, str(other))) from None
        if not wait and (holders := dvc_holders(root)):  # somebody typed `dvc repro`
            raise BusyError(_busy(root, ", ".join(holders)))
        with saying_so(lambda: _for_dvc(root, what)):
            while wait and dvc_holders(root):
                time.sleep(0.2)
        yield root


@contextmanager
def isolated(root: Path | str, run_id: str, commit: str = "HEAD") -> Iterator[Path]:
    """A worktree for one run, removed at the end.

    Args:
        root: The checkout whose cache, remote and `.instar` records it shares.
        run_id: Names the worktree.
        commit: What it holds.

    Raises:
        TaskError: There is no such commit, or git or DVC refuses.
    """
    root = Path(root).resolve()
    place = root / ".instar" / "work" / run_id
    _sweep(root)
    require_git(root)
    with ExitStack() as stack:
        try:
            # Before there is a worktree, so that no sweep takes a new one for one left behind.
            stack.enter_context(held(sign_of_life(place), f"run {run_id}"))
        except HeldError as other:
            raise BusyError(_busy(place, str(other))) from None
        try:
            git(root, "worktree", "add", "--detach", str(place), commit)
            with locked(place, what=f"run {run_id}"):
                _share_dvc(root, place)
                _share_state(root, place)
                _bring_tracked_data(place)
                yield place
        finally:
            _remove(root, place)


def _share_dvc(root: Path, place: Path) -> None:
    """Point the worktree's own (untracked) DVC config at the main checkout's cache and remote."""
    settings = dvc_settings(root)
    private = place / ".dvc" / "config.local"
    private.touch(mode=0o600)
    # Credentials and such: untracked, but the run needs them.
    with contextlib.suppress(FileNotFoundError):
        private.write_bytes((root / ".dvc" / "config.local").read_bytes())
    shared = {"cache": {"dir": settings.get("cache.dir") or str(root / ".dvc" / "cache")}}
    remote = default_remote(settings)
    if remote is not None and not urlsplit(remote[1]).scheme:
        # The tracked path is relative to .dvc, which for the worktree lies elsewhere.
        shared[f'remote "{remote[0]}"'] = {"url": remote[1]}
    write_dvc_settings(private, shared)


def _share_state(root: Path, place: Path) -> None:
    state = place / ".instar"
    state.mkdir(exist_ok=True)
    for name in _SHARED_STATE:
        (root / ".instar" / name).mkdir(parents=True, exist_ok=True)
        (state / name).symlink_to(root / ".instar" / name)
    for name in _SHARED_FILES:
        (root / ".instar" / name).touch()
        (state / name).symlink_to(root / ".instar" / name)


def _bring_tracked_data(place: Path) -> None:
    """Check out what `.dvc` files track (a user's raw data), not the stages' outputs."""
    listed = git(place, "ls-files", "-z", "*.dvc")
    if listed:
        run_dvc(["checkout", "--quiet", *listed.rstrip("\0").split("\0")], place)


def _sweep(root: Path) -> None:
    """Remove worktrees of runs that were killed: nobody holds their sign of life."""
    for place in (root / ".instar" / "work").glob("*"):
        if not place.is_dir():
            continue
        with contextlib.suppress(HeldError), held(sign_of_life(place), "sweep"):
            _remove(root, place)


def sign_of_life(place: Path) -> Path:
    """The lock that whoever works in a worktree holds, from before it is made until it is gone."""
    return place.with_name(f"{place.name}.lock")


def _remove(root: Path, place: Path) -> None:
    # Never follows a link: the shared records stay.
    # One that was killed while git made it is locked ("initializing"), and prune would spare it.
    git(root, "worktree", "unlock", str(place), check=False)
    git(root, "worktree", "remove", "--force", str(place), check=False)
    shutil.rmtree(place, ignore_errors=True)
    git(root, "worktree", "prune", check=False)
    sign_of_life(place).unlink(missing_ok=True)


def _for_dvc(root: Path, what: str) -> str:
    return (
        f"{', '.join(dvc_holders(root)) or 'a DVC command'}: its stages run in {root.resolve()}, "
        f"which {what} needs. This goes on by itself once they have ended; press Ctrl-C to stop."
    )


def _busy(root: Path, who: str) -> str:
    return (
        f"{root} is busy: held by {who}. "
        "Try again when it has ended (`instar run --wait` waits for it), or end it first."
    )
