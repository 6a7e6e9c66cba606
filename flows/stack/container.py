"""What the services of docker/compose.yaml run: `python -m flows.stack.container WHAT`.

Passwords come as environment variables, and go to the servers in files of a private folder or in
the environment, never as arguments.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flows.orchestration.servers import answers
from flows.stack import seaweedfs
from flows.stack.access import BUCKETS, write_private
from flows.stack.servers import ensure_user, has_worker, mlflow_accounts, mlflow_command
from tasks.errors import TaskError
from tasks.system.proxies import keep_loopback_direct

_PORTS = {"s3": 8333, "master": 9333, "volume": 9340, "filer": 8888}
_PATIENCE = 120.0


def main(arguments: Sequence[str]) -> int:
    """Become a server, or do something for one; returns the exit status."""
    keep_loopback_direct()
    match arguments:
        case ["store"]:
            _store()
        case ["mlflow"]:
            _mlflow()
        case ["accounts"]:
            _accounts()
        case ["answers", address]:
            return 0 if answers(address) else 1
        case ["healthy"]:
            account = os.environ.get("PREFECT_API_AUTH_STRING", ":")
            return 0 if has_worker(_given("PREFECT_API_URL").rstrip("/"), account) else 1
        case _:
            print("usage: store | mlflow | accounts | answers URL | healthy", file=sys.stderr)
            return 2
    return 0


def _store() -> None:
    keys = (_given("S3_ADMIN_SECRET"), _given("S3_MLFLOW_SECRET"), _given("S3_SECRET"))
    users = _private("s3.json", seaweedfs.stack_users(*keys))
    _become(seaweedfs.server_command(Path("/data"), users, _PORTS, s3_listens="0.0.0.0"))


def _mlflow() -> None:
    password = _given("MLFLOW_DATABASE_PASSWORD")
    database = f"postgresql+psycopg2://mlflow:{password}@postgres:5432/mlflow"
    accounts = _private("auth.ini", mlflow_accounts(database, _given("MLFLOW_ADMIN_PASSWORD")))
    os.environ["MLFLOW_BACKEND_STORE_URI"] = database
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(accounts)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    _become(mlflow_command("0.0.0.0", 5000))


def _accounts() -> None:
    """Make the buckets and MLflow's user, as soon as both servers let it."""
    store, secret = _given("AWS_ENDPOINT_URL_S3"), _given("S3_ADMIN_SECRET")
    mlflow, admin = _given("MLFLOW_TRACKING_URI"), _given("MLFLOW_ADMIN_PASSWORD")
    password = _given("MLFLOW_TRACKING_PASSWORD")
    deadline = time.monotonic() + _PATIENCE
    while not (
        seaweedfs.ensure_buckets(store, "admin", secret, BUCKETS)
        and ensure_user(mlflow, admin, password)
    ):
        if time.monotonic() > deadline:
            raise TaskError(f"{store} or {mlflow} does not answer: see their logs.")
        time.sleep(1.0)


def _given(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise TaskError(f"{name} is not set: see docker/env.example.")
    return value


def _private(name: str, text: str) -> Path:
    """A file with this text in a folder that only this user may enter."""
    path = Path(tempfile.mkdtemp(prefix="instar-")) / name
    write_private(path, text)
    return path


def _become(command: Sequence[str]) -> None:
    sys.stdout.flush()
    os.execv(command[0], list(command))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TaskError as problem:
        sys.exit(f"error: {problem}")
