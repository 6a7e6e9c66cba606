"""`make stack`: Postgres, SeaweedFS, MLflow, Prefect and a worker on loopback, without containers.

The same servers in the same roles as in docker/compose.yaml. One process, the supervisor, holds
each of them on a leash; it is detached from the command that starts it and lives until
`make stack-stop`. However it ends, its servers end with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows.orchestration.servers import last_words
from flows.stack import seaweedfs
from flows.stack.access import Access, open_access
from flows.stack.servers import MARK, Server, environment_of, servers
from tasks.errors import TaskError, explain
from tasks.system.locks import HeldError, held, is_free
from tasks.system.proxies import keep_loopback_direct
from tasks.system.supervised_process import Leash
from tasks.system.terminal import open_terminal
from tasks.system.url_paths import require_place
from tasks.versioning.dvc_remote import require_dvc

FOLDER = Path(".instar") / "stack"
# Two quiet cores need 30 s for a first start.
_PATIENCE = 300.0
# All servers in turn, each with its grace.
_LONGEST_END = 60.0


def start(root: Path, folder: Path) -> None:
    """Start the stack unless it runs; return when all of it is ready.

    Args:
        root: The checkout that the worker serves.
        folder: Where databases, objects, logs and passwords lie.

    Raises:
        TaskError: A server did not start; its log is named.
    """
    require_place(root)
    require_place(folder, also=",")  # SeaweedFS takes a list of folders
    require_dvc(root)
    folder.mkdir(parents=True, exist_ok=True)
    supervisor = None
    if is_free(folder / "lock"):
        _end_members(folder)  # of a supervisor that was killed just now
        _tidy(folder)
        supervisor = _detach(root, folder)
    else:
        print("The stack is already running.", flush=True)
    try:
        _follow(folder, supervisor)
    except KeyboardInterrupt:
        stop(folder)
        raise
    print((folder / "ready").read_text(encoding="utf-8"), end="", flush=True)


def stop(folder: Path) -> bool:
    """End all that the stack has started; whether there was anything.

    What a killed supervisor left is found by the mark in its environment.
    """
    lock = folder / "lock"
    found = bool(_members(folder))
    if not is_free(lock):
        with contextlib.suppress(OSError, ValueError, KeyError):
            os.kill(json.loads(lock.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)
    _end_members(folder)
    _tidy(folder)
    return found


def supervise(root: Path, folder: Path) -> None:
    """Start every server and hold them until SIGTERM, or until one of them ends.

    Raises:
        TaskError: One did not start, or ended.
    """
    # Once: a second signal must not break off the orderly end.
    signal.signal(signal.SIGTERM, _end)
    with held(folder / "lock", "make stack"), ExitStack() as running:
        running.callback(_tidy, folder)
        access = open_access(folder, running)
        leashes: dict[str, Leash] = {}
        for group in servers(folder, access):
            for server in group:
                leash = _launch(server, root, folder)
                leashes[server.name] = running.enter_context(leash)
            for server in group:
                _wait(server, leashes, folder)
        (folder / "ready").write_text(_greeting(root, folder, access), encoding="utf-8")
        while True:
            _require_alive(leashes, folder)
            time.sleep(1.0)


def main() -> None:
    """Entry point of the Makefile's targets `stack` and `stack-stop`."""
    open_terminal()
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    parser.add_argument("what", choices=("start", "stop", "supervise"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the stack keeps all")
    given = parser.parse_args()
    keep_loopback_direct()
    root, folder = Path.cwd(), given.folder.resolve()
    try:
        if given.what == "start":
            start(root, folder)
        elif given.what == "stop":
            print("Stopped." if stop(folder) else "No stack runs here.")
        else:
            supervise(root, folder)
    except HeldError:
        return  # another supervisor was faster
    except Exception as error:
        message = explain(error, [folder])
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(1)


def _detach(root: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.stack", "supervise", "--folder", str(folder)]
    with _log(folder, "stack") as log:
        return subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, MARK: str(folder), "PYTHONIOENCODING": "utf-8:backslashreplace"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _follow(folder: Path, supervisor: subprocess.Popen[bytes] | None) -> None:
    """Show what the supervisor tells until all is ready."""
    log, shown = folder / "logs" / "stack.log", 0
    while True:
        ready = (folder / "ready").exists()
        gone = supervisor is None or supervisor.poll() is not None
        ended = gone and is_free(folder / "lock")
        lines = log.read_text(encoding="utf-8").splitlines()
        if supervisor is not None:
            for line in lines[shown:]:
                if not line.startswith("error: "):
                    print(line, flush=True)
        shown = len(lines)
        if ready:
            return
        if ended:
            said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            raise TaskError(said[-1] if said else f"the stack did not start: see {log}.")
        time.sleep(0.1)


def _launch(server: Server, root: Path, folder: Path) -> Leash:
    # The worker serves the checkout; a server must not take a file there for a module of its own.
    place = root if server.name == "worker" else folder
    with _log(folder, server.name) as log:
        environment = environment_of(server, folder)
        return Leash(server.command, place, environment, log, log, server.grace)


@contextmanager
def _log(folder: Path, name: str) -> Iterator[int]:
    """A log that starts again with every start; only its owner may read it."""
    path = folder / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _wait(server: Server, leashes: dict[str, Leash], folder: Path) -> None:
    began = time.monotonic()
    while not server.ready():
        _require_alive(leashes, folder)
        if time.monotonic() > began + _PATIENCE:
            log = folder / "logs" / f"{server.name}.log"
            said = last_words(log)
            raise TaskError(f"{server.name} did not start within {_PATIENCE:.0f} s: {said}.")
        time.sleep(0.2)
    print(f"{server.name}: ready", flush=True)


def _require_alive(leashes: dict[str, Leash], folder: Path) -> None:
    for name, leash in leashes.items():
        if not leash.alive():
            raise TaskError(f"{name} ended: {last_words(folder / 'logs' / f'{name}.log')}.")


def _greeting(root: Path, folder: Path, access: Access) -> str:
    # As one types it in the checkout.
    place = folder.relative_to(root) if folder.is_relative_to(root) else folder
    shown = {
        "MLflow": access.address("mlflow"),
        "Prefect": access.address("prefect"),
        "S3": f"{access.address('s3')} (s3://instar is for DVC)",
        "Logs": place / "logs",
    }
    lines = [f"{name + ':':9}{value}\n" for name, value in shown.items()]
    return (
        "".join(lines)
        + f"Next: source {shlex.quote(str(place / 'env'))}   (make stack-stop ends it)\n"
    )


def _end_members(folder: Path) -> None:
    """Wait until nothing of the stack lives; kill what takes too long."""
    deadline = time.monotonic() + _LONGEST_END
    while members := _members(folder):
        if is_free(folder / "lock") and time.monotonic() > deadline - _LONGEST_END + 15.0:
            deadline = 0.0  # nobody is left who would end them in order
        if time.monotonic() > deadline:
            for pid in members:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _tidy(folder: Path) -> None:
    """Remove what speaks of a running stack when there is none any more."""
    (folder / "ready").unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        seaweedfs.remove_sockets(json.loads((folder / "server.json").read_text("utf-8"))["ports"])


def _members(folder: Path) -> list[int]:
    """Processes of the stack: by the mark in their environment, PostgreSQL's by their folder."""
    mark, data, found = f"{MARK}={folder}".encode(), str(folder / "postgres"), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            place = Path("/proc", entry)
            # PostgreSQL writes its titles over its environment.
            if (place / "comm").read_text() == "postgres\n":
                if os.readlink(place / "cwd") == data:
                    found.append(int(entry))
            elif mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)
