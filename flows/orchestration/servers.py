"""The servers behind a checkout: Prefect's (API, UI) and MLflow's UI, on loopback only.

A command that needs Prefect starts a real server process on the checkout's own database, unless one
is configured (PREFECT_API_URL) or another command of this checkout has started one already; the
last command that uses it ends it. Two servers never share a sqlite database.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
import urllib.error
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

from tasks.errors import TaskError
from tasks.system.proxies import by_proxy, open_url, require_certificates
from tasks.system.redaction import shown
from tasks.system.shared_process import Launch, SharedLeash
from tasks.system.supervised_process import Leash
from tasks.tracking.runs import artifacts_of

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
# A fresh sqlite database takes 9 to 20 s on two quiet cores; a busy machine takes longer.
_READY_SECONDS = 180.0
# One that somebody else runs is there, or just starts.
_CONFIGURED_SECONDS = 30.0
_ERROR = re.compile(r"^[\w.]*(Error|Exception)\b|^ERROR|\berror:")


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
        require_certificates()
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
            raise TaskError(f"Prefect's server ended: {last_words(self._log)}.")

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            TaskError: It ended or does not answer in time; the log says why.
        """
        patience = _CONFIGURED_SECONDS if self._configured else _READY_SECONDS
        deadline = time.monotonic() + patience
        while (trouble := trouble_at(f"{self.url.rstrip('/')}/health")) is not None:
            self.check()
            if time.monotonic() > deadline or (self._configured and trouble.final):
                break
            time.sleep(0.2)
        else:
            return
        if self._configured:
            raise TaskError(
                f"no Prefect server answers at {shown(self.url)}{by_proxy(self.url)} "
                f"({trouble.said}): start it, correct PREFECT_API_URL, or unset it to let the "
                "command start its own server."
            )
        raise TaskError(
            f"Prefect's server did not answer within {patience:.0f} s ({trouble.said}): "
            f"{last_words(self._log)}."
        )

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
    command += ["--workers", "1", "--default-artifact-root", artifacts_of(root)]
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
    raise TaskError(f"{name} did not start: {last_words(log)}.")


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


@dataclass(frozen=True)
class Trouble:
    """Why an address does not answer as a server of ours.

    Attributes:
        said: In words.
        final: Whether something else answers, so that waiting is in vain.
    """

    said: str
    final: bool


def trouble_at(address: str) -> Trouble | None:
    """None if an HTTP GET of `address` succeeds within two seconds, else why it does not."""
    try:
        with open_url(address, timeout=2) as reply:
            # What a company's proxy says instead of the server is a page for people.
            if reply.read(256).lstrip().startswith(b"<"):
                return Trouble("a web page came instead", final=True)
            return None if reply.status == 200 else Trouble(f"it answers {reply.status}", True)
    except urllib.error.HTTPError as error:
        return Trouble(f"it answers {error.code} {error.reason}".rstrip(), error.code < 500)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Trouble(str(reason) or type(reason).__name__, final=False)


def answers(address: str) -> bool:
    """Whether an HTTP GET of `address` succeeds within two seconds."""
    return trouble_at(address) is None


def last_words(log: Path) -> str:
    """The line of a server's log that says most about its end, and where the rest is."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    lines = [line.strip() for line in lines[-200:] if line.strip()]
    telling = [line for line in lines if _ERROR.search(line)] or lines
    return f"{telling[-1][:300]} (see {log})" if telling else f"see {log}"
