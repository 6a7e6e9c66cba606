"""The servers of the stack: how each is started, and how one knows that it is ready."""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.orchestration.servers import answers
from flows.stack import postgres, seaweedfs
from flows.stack.access import BUCKETS, SILENCE, USER, Access, private_tmp, write_private
from tasks.errors import TaskError
from tasks.system.proxies import open_url

# Known by this variable, which all that the stack starts inherits.
MARK = "INSTAR_STACK"
POOL = "instar"
# Of another installation's servers: ours must not listen to these.
_FOREIGN = ("AWS_", "MLFLOW_", "PREFECT_API_", "PREFECT_SERVER_", "PREFECT_HOME", "PG")


@dataclass(frozen=True)
class Server:
    """One process of the stack.

    Attributes:
        name: Of its log, too.
        command: What to run.
        settings: Environment variables besides the common ones.
        ready: Whether it serves now; sets up what clients need of it.
        grace: Seconds that it gets to end by itself.
    """

    name: str
    command: list[str]
    settings: Mapping[str, str]
    ready: Callable[[], bool]
    grace: float = 8.0


def servers(folder: Path, access: Access) -> list[list[Server]]:
    """All servers, in groups that may start at once; each group needs those before it.

    Raises:
        TaskError: A program is missing.
    """
    return [
        [_postgres(folder, access), _store(folder, access)],
        [_mlflow(folder, access), _prefect(folder, access)],
        [_worker(access)],
    ]


def clean_environment() -> dict[str, str]:
    """This process' environment without what would lead to servers of other installations."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def environment_of(server: Server, folder: Path) -> dict[str, str]:
    """The whole environment of a server's process."""
    return {**clean_environment(), **SILENCE, **server.settings, MARK: str(folder)}


def _postgres(folder: Path, access: Access) -> Server:
    programs, place = postgres.require_postgres(), folder / "postgres"
    port, password = access.ports["postgres"], access.passwords["postgres"]
    postgres.make_cluster(programs, place, password)
    owners = {name: access.passwords[f"postgres_{name}"] for name in ("mlflow", "prefect")}
    return Server(
        "postgres",
        postgres.server_command(programs, place, port),
        {},
        lambda: postgres.ensure_databases(port, password, owners),
    )


def _store(folder: Path, access: Access) -> Server:
    place, users = folder / "objects", folder / "s3.json"
    place.mkdir(mode=0o700, exist_ok=True)
    passwords = access.passwords
    known = (passwords["s3_admin"], passwords["s3_mlflow"], passwords["s3"])
    write_private(users, seaweedfs.stack_users(*known))
    address = access.address("s3")
    return Server(
        "seaweedfs",
        seaweedfs.server_command(place, users, access.ports),
        {},
        lambda: seaweedfs.ensure_buckets(address, "admin", passwords["s3_admin"], BUCKETS),
        # Asked, it takes 20 s; what it has answered for survives a SIGKILL.
        grace=1.0,
    )


def _mlflow(folder: Path, access: Access) -> Server:
    database = access.database("psycopg2", "mlflow")
    accounts = folder / "mlflow-auth.ini"
    write_private(accounts, mlflow_accounts(database, access.passwords["mlflow_admin"]))
    port = access.ports["mlflow"]
    command = mlflow_command("127.0.0.1", port)
    settings = {
        # Not as arguments: everyone on the machine may read those.
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": access.passwords["mlflow_csrf"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_S3_ENDPOINT_URL": access.address("s3"),
        "AWS_ACCESS_KEY_ID": "mlflow",
        "AWS_SECRET_ACCESS_KEY": access.passwords["s3_mlflow"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    passwords = access.passwords
    return Server(
        "mlflow",
        command,
        settings,
        lambda: ensure_user(
            access.address("mlflow"), passwords["mlflow_admin"], passwords["mlflow"]
        ),
    )


def _prefect(folder: Path, access: Access) -> Server:
    port = access.ports["prefect"]
    api = f"{access.address('prefect')}/api"
    command = [sys.executable, "-P", "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": access.database("asyncpg", "prefect"),
        # Whoever may use the API may run code on the worker.
        "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{access.passwords['prefect']}",
        "PREFECT_SERVER_UI_API_URL": api,
    }
    return Server("prefect", command, settings, lambda: answers(f"{api}/health"))


def _worker(access: Access) -> Server:
    command = [sys.executable, "-m", "flows.cli", "worker", "--work-pool", POOL]
    # Prefect's runs share one folder in /tmp, which the first user of a machine owns.
    settings = {**access.for_people(), "TMPDIR": str(private_tmp())}
    api, account = settings["PREFECT_API_URL"], settings["PREFECT_API_AUTH_STRING"]
    return Server("worker", command, settings, lambda: has_worker(api, account))


def mlflow_command(host: str, port: int) -> list[str]:
    """MLflow's server with accounts, its artifacts in the bucket `mlflow`."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    return [*command, "--artifacts-destination", "s3://mlflow"]


def mlflow_accounts(database: str, admin_password: str) -> str:
    """The settings of MLflow's accounts, which are kept in its database."""
    return (
        "[mlflow]\n"
        # Everyone with an account may look; who makes a run or a model may change it.
        "default_permission = READ\n"
        f"database_uri = {database}\n"
        "admin_username = admin\n"
        f"admin_password = {admin_password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # Checking a password costs a tenth of a second of a core, on every request.
        "auth_cache_ttl_seconds = 60\n"
    )


def ensure_user(address: str, admin_password: str, password: str) -> bool:
    """See that MLflow knows the user `instar`; False while it does not answer.

    Raises:
        TaskError: It does not know its administrator by this password.
    """
    if not answers(f"{address}/health"):
        return False
    users, admin = f"{address}/api/2.0/mlflow/users", f"admin:{admin_password}"
    try:
        try:
            ask(f"{users}/get?username={USER}", admin)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            ask(f"{users}/create", admin, {"username": USER, "password": password})
    except urllib.error.HTTPError as error:
        raise TaskError(
            f"the MLflow at {address} does not know this stack's administrator ({error}): another "
            "server has taken the port, or the password was changed there; start again."
        ) from None
    return True


def has_worker(api: str, account: str, pool: str = POOL) -> bool:
    """Whether Prefect's API at this address knows of a worker that serves the pool now."""
    try:
        found = ask(f"{api}/work_pools/{pool}/workers/filter", account, {})
    except OSError:  # no such pool yet
        return False
    return any(worker["status"] == "ONLINE" for worker in found)


def ask(address: str, account: str, content: Any = None) -> Any:
    """The JSON that a server answers to a user, `name:password`; a POST if there is content."""
    headers = {
        "Authorization": f"Basic {base64.b64encode(account.encode()).decode()}",
        "Content-Type": "application/json",
    }
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, body, headers)
    with open_url(request, timeout=10) as reply:
        return json.loads(reply.read() or b"null")
