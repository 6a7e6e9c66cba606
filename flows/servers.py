"""The servers behind a checkout: Prefect's (API, UI) and MLflow's UI, on loopback only.

A command that needs Prefect starts a real server process on the checkout's own database, unless one
is configured (PREFECT_API_URL) or another command of this checkout has started one already; the
last command that uses it ends it. Two servers never share a sqlite database.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

from tasks.errors import TaskError
from tasks.leash import Leash
from tasks.shared_leash import Launch, SharedLeash

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
# A fresh sqlite database takes 9 to 20 s on two quiet cores; a busy machine takes longer.
_READY_SECONDS = 180.0


class PrefectServer:
    """The Prefect server that serves a checkout, started only if there is none.

    Use it as a context manager: entering returns at once while the server still starts, so that
    work goes on meanwhile; `wait` before the first use.

    Attributes:
        url: Base URL of the API, ending in `/api`.
        lost: Whether a server went away under a command of this process. Prefect's threads would
            then wait for it at the end of the process.
    """

    lost: ClassVar[bool] = False

    def __init__(self, root: Path | str, port: int | None = None):
        """`port` None picks any free one; a given port that is taken gives way to a free one."""
        self._root = Path(root).resolve()
        self._port = port
        self._leash = SharedLeash(self._root / ".instar" / "prefect" / "server")
        self._configured = False
        self.url = ""

    def __enter__(self) -> PrefectServer:
        os.environ.update(prefect_environment(self._root))
        self.url = os.environ.get("PREFECT_API_URL", "")
        self._configured = bool(self.url)
        if not self._configured:
            self.url = self._leash.take(self._launch)
            # Nobody restarts our own server: waiting minutes for it would be in vain.
            os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")
        # Now, as Prefect reads it once, at its import (which may happen while the server starts).
        os.environ["PREFECT_API_URL"] = self.url
        return self

    def __exit__(self, *_: object) -> None:
        self._leash.release()
        if not self._configured:
            os.environ.pop("PREFECT_API_URL", None)
            os.environ.pop("PREFECT_CLIENT_MAX_RETRIES", None)

    @property
    def ui(self) -> str:
        """Where a browser finds it."""
        return self.url.removesuffix("/").removesuffix("/api")

    def answers(self) -> bool:
        """Whether it answers now."""
        return answers(f"{self.url.rstrip('/')}/health")

    def check(self) -> None:
        """See that the server is still there.

        Raises:
            TaskError: It ended; the log says why.
        """
        if not self._configured and not self._leash.alive():
            raise TaskError(f"Prefect's server ended: see {self._log}.")

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            TaskError: It ended or does not answer in time; the log says why.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if self.answers():
                return
            self.check()
            time.sleep(0.2)
        if self._configured:
            raise TaskError(
                f"no Prefect server answers at {self.url}: start it, or unset PREFECT_API_URL "
                "to let the command start its own."
            )
        raise TaskError(f"Prefect's server did not start: see {self._log}.")

    @property
    def _log(self) -> Path:
        return self._root / ".instar" / "logs" / "prefect-server.log"

    def _launch(self) -> Launch:
        port = free_port(self._port)
        url = f"http://127.0.0.1:{port}/api"
        environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": url}
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-P", "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        return Launch(command, self._root, environment, self._log, url)


def running_server(root: Path | str) -> str | None:
    """The API's address of the server that commands of this checkout started; None if none runs."""
    folder = Path(root).resolve() / ".instar" / "prefect" / "server"
    return SharedLeash(folder).address() if folder.is_dir() else None


def prefect_environment(root: Path | str) -> dict[str, str]:
    """Settings for every Prefect process of a checkout; what the user set himself stays."""
    ours = {
        "PREFECT_HOME": str(Path(root).resolve() / ".instar" / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Only the terminal's handler: the UI still shows every log line.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # Nor a line for each event that a server which went away did not take.
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    }
    return {name: os.environ.get(name, value) for name, value in ours.items()}


def start_mlflow_ui(root: Path, store: str) -> tuple[Leash, str]:
    """Start MLflow's own UI on a database; returns the process and its address."""
    port = free_port(MLFLOW_PORT)
    log = root / ".instar" / "logs" / "mlflow-ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not as an argument: everyone on the machine may read those, and a password in them.
        "MLFLOW_BACKEND_STORE_URI": store,
    }
    command = ["-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--default-artifact-root", str(root / "mlartifacts")]
    with log.open("w", encoding="utf-8") as file:
        leash = Leash([sys.executable, *command], root, environment, stdout=file, stderr=file)
    return leash, f"http://127.0.0.1:{port}"


def wait_for(leash: Leash, address: str, name: str, log: Path) -> None:
    """Return when `address` answers; raise TaskError when the process ends or takes too long."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and leash.alive():
        if answers(address):
            return
        time.sleep(0.2)
    raise TaskError(f"{name} did not start: see {log}.")


def free_port(wanted: int | None = None) -> int:
    """The wanted loopback port if nobody listens there, else any free one."""
    for port in (wanted, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TaskError("no free port on 127.0.0.1: close some programs and try again.")


def answers(address: str) -> bool:
    """Whether an HTTP GET of `address` succeeds within two seconds."""
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
