"""Ends a stage when the `dvc` that runs it is gone, whatever ended that.

A `Leash` holds what a flow starts. A `dvc repro` that a person types has none, and when it is
killed its stage would compute and write on.
"""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK_EVERY = 0.5
# What a stage may take to write its last line, before it is ended without it.
_GRACE_SECONDS = 5.0


def follow_dvc() -> None:
    """Send this process a SIGTERM when the `dvc` that runs it ends; kill it if that is not heard.

    Without effect on a stage that was typed by hand, which may outlive its terminal.
    """
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch, args=(_dvc(),), daemon=True).start()


def _watch(pid: int | None) -> None:
    started = _start(pid)
    while started is not None and _start(pid) == started:
        time.sleep(_LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _dvc() -> int | None:
    """The DVC above this process; None if it is gone already.

    Between the two there may be the shell that DVC starts a command with, and that one outlives
    DVC. All that DVC starts has DVC_STAGE in its environment; DVC itself has not.
    """
    pid = os.getppid()
    while b"DVC_STAGE=" in _read(pid, "environ"):
        pid = _parent(pid)
    # An orphan is handed to another session's process (init, systemd): that is not DVC.
    try:
        return pid if os.getsid(pid) == os.getsid(0) else None
    except OSError:
        return None


def _start(pid: int | None) -> str | None:
    """When the process started (its number may be used again); None if it no longer exists."""
    fields = _stat(pid) if pid is not None else []
    # A zombie has ended: its parent has just not asked yet.
    return None if not fields or fields[0] in "ZX" else fields[19]


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat behind the name: state, parent, group, session, …"""
    return _read(pid, "stat").decode("utf-8", "replace").rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
