"""Real servers on loopback that tests start, kill and start again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request


def wait_until(happens, seconds=120):
    """Returns once `happens()` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process with all its children; `kill` gives it no time to say goodbye."""

    def __init__(self, command, address, health, env=None):
        self.command = command
        self.address = address
        self.health = health
        self.env = {**os.environ, **(env or {})}
        self.process = None

    def start(self):
        self.launch()
        wait_until(self.answers)

    def launch(self):
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def answers(self):
        try:
            return urllib.request.urlopen(self.health, timeout=2).status == 200
        except OSError:
            return False

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def mlflow_server(database, artifacts, port=None):
    """MLflow's own server on a sqlite database."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", str(artifacts),
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server(command, address, f"{address}/health", quiet)
