"""Who may do what in the stack, and where its servers listen: made once, kept in two files.

`env` is for people: a shell sources it and reaches every server as the user `instar`, who owns what
the worker registers. `server.json` holds what only the servers need: the database's and the
administrators' passwords. Both can be read by their owner alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows.orchestration.servers import free_port
from flows.stack.seaweedfs import SHADOW, is_blocked
from tasks.errors import TaskError
from tasks.system.locks import HeldError, held
from tasks.system.proxies import LOOPBACK

USER = "instar"
# A key that may use the bucket of this name, besides the administrator's.
BUCKETS = ("instar", "mlflow")
# Where each server listens if nobody else does; not where `instar ui` begins to look.
_WISHES = {"postgres": 5433, "mlflow": 5500, "prefect": 4300}
_STORE_WISHES = {"s3": 8333, "master": 9333, "volume": 9340, "filer": 8888}
_PASSWORDS = (
    "postgres",
    "postgres_mlflow",
    "postgres_prefect",
    "mlflow_admin",
    "mlflow",
    "mlflow_csrf",
    "prefect",
    "s3_admin",
    "s3_mlflow",
    "s3",
)


@dataclass(frozen=True)
class Access:
    """Ports and passwords of one stack.

    Attributes:
        ports: Of each server, on 127.0.0.1.
        passwords: Of each account, random and plain enough for any URL.
    """

    ports: Mapping[str, int]
    passwords: Mapping[str, str]

    def address(self, server: str) -> str:
        """Base URL of a server that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[server]}"

    def database(self, driver: str, name: str) -> str:
        """SQLAlchemy's URL of a database, with its password."""
        password, port = self.passwords[f"postgres_{name}"], self.ports["postgres"]
        return f"postgresql+{driver}://{name}:{password}@127.0.0.1:{port}/{name}"

    def for_people(self) -> dict[str, str]:
        """All that a client of the stack must know, as environment variables."""
        return {
            "MLFLOW_TRACKING_URI": self.address("mlflow"),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.passwords["mlflow"],
            "PREFECT_API_URL": f"{self.address('prefect')}/api",
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.passwords['prefect']}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": self.passwords["s3"],
            "AWS_ENDPOINT_URL_S3": self.address("s3"),
            "AWS_DEFAULT_REGION": "us-east-1",
            **SILENCE,
        }


# No component reports home.
SILENCE = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


# What dvc, mlflow and prefect, typed by hand, need where a proxy is set. The lower-case variable
# counts in every client.
_PAST_PROXIES = (
    f'export no_proxy="${{no_proxy:-${{NO_PROXY:-}}}},{",".join(LOOPBACK)}"',
    'export NO_PROXY="$no_proxy"',
)


def open_access(folder: Path, reserved: ExitStack) -> Access:
    """The access kept in a stack's folder, made where it lacks; ports that are taken now change.

    Args:
        folder: The stack's.
        reserved: Keeps other stacks of this user from the ports until their servers listen, and on.

    Raises:
        TaskError: The file is broken.
    """
    kept = folder / "server.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        passwords = {name: known.get("passwords", {}).get(name) for name in _PASSWORDS}
        ports = dict(known.get("ports", {}))
    except (ValueError, AttributeError):
        raise TaskError(
            f"{kept} is broken, and with it the way into the stack's databases: restore it, or "
            f"remove {folder} to start over."
        ) from None
    # Hexadecimal: no shell, URL or configuration file has to quote it.
    passwords = {name: value or secrets.token_hex(20) for name, value in passwords.items()}
    access = Access(_free_ports(ports, reserved), passwords)
    write_private(kept, json.dumps({"ports": access.ports, "passwords": passwords}, indent=2))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in access.for_people().items()]
    write_private(folder / "env", "\n".join([*lines, *_PAST_PROXIES]) + "\n")
    return access


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner may read, not even while it is written."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def private_tmp() -> Path:
    """This user's own folder for temporary files, with a name short enough for sockets.

    Raises:
        TaskError: Somebody else has made it.
    """
    place = Path(tempfile.gettempdir(), f"instar-{os.geteuid()}")
    place.mkdir(mode=0o700, exist_ok=True)
    if place.lstat().st_uid != os.geteuid() or place.is_symlink():
        raise TaskError(f"{place} belongs to another user: remove it.")
    return place


def _free_ports(former: Mapping[str, int], reserved: ExitStack) -> dict[str, int]:
    ports: dict[str, int] = {}
    for name, wish in (_WISHES | _STORE_WISHES).items():
        port = free_port(former.get(name, wish))
        while not _reserve(port, name in _STORE_WISHES, reserved):
            port = free_port()
        ports[name] = port
    return ports


def _reserve(port: int, twin: bool, reserved: ExitStack) -> bool:
    """Take a free port, and its shadow, before another stack does; False if one is taken."""
    if twin and (not _is_free(port + SHADOW) or is_blocked(port)):
        return False
    place = private_tmp() / "ports"
    with ExitStack() as taken:
        for number in (port, port + SHADOW) if twin else (port,):
            try:
                taken.enter_context(held(place / str(number), "a stack"))
            except HeldError:
                return False
        reserved.push(taken.pop_all())
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True
