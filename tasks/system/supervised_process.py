"""A child process group that never outlives this process, however this process ends.

`subprocess` alone is not enough: killing `dvc repro` or `prefect server start` orphans what they
started, a SIGKILL here runs no `finally`, and Linux' `PR_SET_PDEATHSIG` fires on the end of the
*thread* that forked and reaches direct children only. So every long-lived child is started by a
tiny keeper (this very file, run as a script) in a session of its own. The keeper holds the
reading end of a pipe whose writing end lives in this process: when the pipe closes, for whatever
reason, the keeper ends all that was started. `shared_process` lets it wait for a lock instead.

A command may start others in sessions of their own (Prefect's worker does so with every flow run).
They are known by the token that the keeper has put into the environment of the command.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_GRACE_SECONDS = 8.0
_KILL_SECONDS = 2.0
_TOKEN = "INSTAR_LEASH"

# How a keeper waits for its end, each on a file descriptor. A byte in the pipe: there is haste.
_WAITS: Mapping[str, Callable[[int], object]] = {
    "pipe": lambda reading: os.read(reading, 1),
    "lock": lambda users: fcntl.flock(users, fcntl.LOCK_EX),
}


class Leash:
    """A running command with everything that it starts, held by this process."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdout: int | IO | None = None,
        stderr: int | IO | None = None,
        grace: float = _GRACE_SECONDS,
    ):
        """Start `command`; `grace` is how long an asked process may take before it is killed."""
        reading, self._writing = os.pipe()
        try:
            self.process = start_keeper(
                command, "pipe", (reading,), cwd, env, stdout, stderr, grace
            )
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)
        self._grace = grace

    @property
    def pid(self) -> int:
        """Process id of the keeper, which is also the id of the process group."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether the command is still running."""
        return self.process.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command and return its exit status (128 + n for a signal n)."""
        return self.process.wait(timeout)

    def stop(self, first: signal.Signals = signal.SIGTERM) -> None:
        """End all that was started: ask with `first`, kill what is left after the grace time."""
        if self.alive():
            self._signal(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self._grace)
        if self.alive():
            # Not the keeper first: it alone knows what has a session of its own.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                os.write(self._writing, b"k")
                self.process.wait(_KILL_SECONDS + 2.0)
        if self.alive():
            self._signal(signal.SIGKILL)
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._writing)

    def _signal(self, number: signal.Signals) -> None:
        # Not reaped yet (alive() was true), so the id still belongs to this group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def __enter__(self) -> Leash:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.stop(signal.SIGINT if interrupted else signal.SIGTERM)


def start_keeper(
    command: Sequence[str],
    wait: str,
    files: Sequence[int],
    cwd: Path,
    env: Mapping[str, str] | None,
    stdout: int | IO | None,
    stderr: int | IO | None,
    grace: float = _GRACE_SECONDS,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, under a keeper that ends it.

    Nobody answers it: its stdin is closed, and git asks nothing there (`tasks.system.unattended`).

    Args:
        command: What to run.
        wait: What the keeper waits for on the first of `files`: 'pipe' closes, or 'lock' is free.
        files: File descriptors for the keeper, closed in reverse order when all has ended.
        cwd: Working directory.
        env: Environment; None for this process' own.
        stdout: As for `subprocess.Popen`.
        stderr: As for `subprocess.Popen`.
        grace: How long an asked process may take before it is killed.
    """
    # Here: the keeper, this very file run by itself, finds no other module.
    from tasks.system.unattended import unattended

    handed = ",".join(map(str, files))
    environment = unattended(os.environ if env is None else env) | {_TOKEN: secrets.token_hex(8)}
    return subprocess.Popen(
        # -I -S: the keeper is stdlib only and must start in milliseconds.
        [sys.executable, "-I", "-S", __file__, wait, handed, str(grace), *command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=files,
        start_new_session=True,
    )


def _held() -> list[int]:
    """Processes of the keeper's own session or with its token, itself excluded (from /proc)."""
    mine, found = os.getpid(), []
    token = f"{_TOKEN}={os.environ[_TOKEN]}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == mine:
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            # Fields after the name: state, parent, group, session. Zombies hold nothing.
            if fields[0] == "Z":
                continue
            if int(fields[3]) == mine or token in _environment(entry):
                found.append(int(entry))
    return found


def _environment(pid: str) -> list[bytes]:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read().split(b"\0")


def _end_group(grace: float) -> None:
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        deadline = time.monotonic() + patience
        asked: set[int] = set()
        while held := set(_held()):
            for pid in held - asked:  # those that were born since the last look, too
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            asked |= held
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)


def _keep(wait: str, files: list[int], grace: float, command: list[str]) -> int:
    """Run `command`, end all that it started when the wait is over or when it ends itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler, not SIG_IGN: an ignored signal would stay ignored in the command.
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command)

    def watch() -> None:
        in_haste = _WAITS[wait](files[0])
        _end_group(0.0 if in_haste else grace)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    _end_group(grace)  # what the command left behind is an orphan
    for file in reversed(files):
        os.close(file)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    _wait, _files, _grace, *_command = sys.argv[1:]
    sys.exit(_keep(_wait, [int(file) for file in _files.split(",")], float(_grace), _command))
