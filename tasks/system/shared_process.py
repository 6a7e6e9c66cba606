"""A command that several processes use, started by the first of them and ended with the last.

A `Leash` ties a command to one process. Here the keeper waits, instead, for an exclusive lock on a
file of which every user holds a shared lock: it gets the lock when nobody uses the command any
more. The kernel frees the lock of a user that is killed, so nothing is counted and nothing is left.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tasks.system.locks import held, saying_so
from tasks.system.supervised_process import start_keeper

# The keeper gives the command eight seconds, and two more to what that leaves behind.
_LONGEST_END = 12.0


@dataclass(frozen=True)
class Launch:
    """How to start the command.

    Attributes:
        address: What later users need to know of it.
        log: Takes all that it prints.
    """

    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    log: Path
    address: str


class SharedLeash:
    """One user's hold on the command whose locks lie in a folder."""

    def __init__(self, folder: Path):
        self._door = folder / "door.lock"
        self._users = folder / "users.lock"
        self._running = folder / "running.lock"
        self._note = folder / "address"
        self._hold: IO[str] | None = None

    def take(self, launch: Callable[[], Launch]) -> str:
        """Use the command that runs, or start the one that `launch` describes.

        Returns:
            The command's address.
        """
        self._door.parent.mkdir(parents=True, exist_ok=True)
        with self._at_the_door():  # nobody else starts one meanwhile
            # Waits while the keeper ends a command whose last user has just gone.
            with saying_so(self._former):
                self._hold = _locked(self._users, fcntl.LOCK_SH)
            try:
                running = _locked(self._running, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._note.read_text(encoding="utf-8")
            with running:
                return self._start(launch(), running)

    def alive(self) -> bool:
        """Whether the command is running."""
        # At the door: a look is a short hold, which one who comes must not take for the command's.
        with self._at_the_door():
            return not _free(self._running, fcntl.LOCK_EX)

    def address(self) -> str | None:
        """Where the command is, if it is running."""
        return self._note.read_text(encoding="utf-8") if self.alive() else None

    def release(self) -> None:
        """Let go. The last user returns when the command has ended."""
        if self._hold is None:
            return
        self._hold.close()
        self._hold = None
        deadline = time.monotonic() + _LONGEST_END
        while self.alive() and not self._others() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _at_the_door(self) -> AbstractContextManager[None]:
        return held(self._door, f"the start of what runs in {self._door.parent}", wait=True)

    def _former(self) -> str:
        return (
            f"what ran in {self._users.parent} until now: its last user has just gone, and it is "
            f"being ended (lock {self._users}), which takes {_LONGEST_END:.0f} seconds at most."
        )

    def _start(self, launch: Launch, running: IO[str]) -> str:
        self._note.write_text(launch.address, encoding="utf-8")
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        with self._users.open("a") as users, launch.log.open("w") as log:
            # A file description of its own: a lock belongs to that, not to the process.
            files = (users.fileno(), running.fileno())
            start_keeper(launch.command, "lock", files, launch.cwd, launch.environment, log, log)
        return launch.address

    def _others(self) -> bool:
        """Whether somebody holds a shared lock: it can be shared, but not had alone."""
        return not _free(self._users, fcntl.LOCK_EX) and _free(self._users, fcntl.LOCK_SH)


def _locked(path: Path, how: int) -> IO[str]:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


def _free(path: Path, how: int) -> bool:
    try:
        _locked(path, how | fcntl.LOCK_NB).close()
    except BlockingIOError:
        return False
    return True
