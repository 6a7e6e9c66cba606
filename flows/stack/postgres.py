"""A PostgreSQL cluster of one's own: Debian's programs, a folder, a port of 127.0.0.1."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.stack.access import write_private
from tasks.errors import TaskError

# Where Debian keeps the programs, off the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
# Else Debian's package starts a cluster of its own.
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/instar.conf")
_SERVANTS = ("postgres", "nobody")


def require_postgres() -> Path:
    """The folder with PostgreSQL's programs; as root, Debian's package is installed if need be.

    Raises:
        TaskError: There is none, and it cannot be installed.
    """
    found = _programs()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Debian's package postgresql", file=sys.stderr, flush=True)
        _install()
        found = _programs()
    if found is None:
        raise TaskError(
            "PostgreSQL is not installed: `sudo apt-get install postgresql`, then `make stack` "
            "again."
        )
    return found


def servant_prefix(folder: Path) -> list[str]:
    """What stands before a command of PostgreSQL's, which refuses to run as root.

    Raises:
        TaskError: As root: the unprivileged user cannot reach the folder.
    """
    if os.geteuid() != 0:
        return []
    user = _servant()
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    prefix = ["setpriv", *ids, "--"]
    if subprocess.run([*prefix, "test", "-x", str(folder)], check=False).returncode != 0:
        raise TaskError(
            f"PostgreSQL does not run as root, and its user {user.pw_name} cannot reach {folder}: "
            "give the stack a folder that everyone may enter, `make stack STACK=/srv/instar`."
        )
    return prefix


def make_cluster(programs: Path, place: Path, password: str) -> None:
    """Make the files of a cluster whose superuser `postgres` has this password, once.

    Raises:
        TaskError: initdb fails; its output is quoted.
    """
    if place.exists():
        return
    # By another name until it is whole: initdb may be killed.
    new = place.with_name(f"{place.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    secret = place.with_name(f"{place.name}.password")
    write_private(secret, password)
    if os.geteuid() == 0:
        for path in (new, secret):
            os.chown(path, _servant().pw_uid, _servant().pw_gid)
    command = [str(programs / "initdb"), f"--pgdata={new}", "--username=postgres"]
    command += ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-locale"]
    command = [*servant_prefix(place.parent), *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    secret.unlink()
    if done.returncode != 0:
        raise TaskError(f"PostgreSQL cannot make {place}: {_last_line(done.stderr)}")
    new.rename(place)


def server_command(programs: Path, place: Path, port: int) -> list[str]:
    """The server on loopback alone, without a socket in /tmp that others could reach."""
    settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={port}"]
    options = [part for setting in settings for part in ("-c", setting)]
    return [*servant_prefix(place.parent), str(programs / "postgres"), "-D", str(place), *options]


def ensure_databases(port: int, password: str, owners: dict[str, str]) -> bool:
    """See that there is a database for each owner, who may enter only that one.

    Args:
        port: Where the server listens.
        password: Its superuser's.
        owners: Name, of role and database both, to password.

    Returns:
        False while the server does not answer.
    """
    import psycopg2
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password

    try:
        connection = psycopg2.connect(
            host="127.0.0.1", port=port, user="postgres", password=password, connect_timeout=2
        )
    except psycopg2.OperationalError:
        return False
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, secret in owners.items():
                cursor.execute("select 1 from pg_roles where rolname = %s", (name,))
                if cursor.fetchone() is None:
                    # Encrypted here: what fails is written into the server's log as it came.
                    kept = encrypt_password(secret, name, connection, "scram-sha-256")
                    create = sql.SQL("create role {} login password {}")
                    cursor.execute(create.format(sql.Identifier(name), sql.Literal(kept)))
                cursor.execute("select 1 from pg_database where datname = %s", (name,))
                if cursor.fetchone() is None:
                    create = sql.SQL("create database {} owner {}")
                    cursor.execute(create.format(sql.Identifier(name), sql.Identifier(name)))
                revoke = sql.SQL("revoke connect on database {} from public")
                cursor.execute(revoke.format(sql.Identifier(name)))
    finally:
        connection.close()
    return True


def _programs() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = [place for place in _DEBIAN.glob("*/bin") if (place / "initdb").is_file()]
    return max(versions, key=lambda place: int(place.parent.name), default=None)


def _install() -> None:
    _apt_get("update")
    _apt_get("install", "--yes", "--no-install-recommends", "postgresql-common")
    _NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    _NO_CLUSTER.write_text("create_main_cluster = false\n", encoding="utf-8")
    _apt_get("install", "--yes", "--no-install-recommends", "postgresql")


def _apt_get(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command: Sequence[str] = ["apt-get", *arguments]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = _last_line(done.stderr)
        raise TaskError(f"`{' '.join(command)}` failed: {said} Run it by hand, then try again.")


def _servant() -> pwd.struct_passwd:
    for name in _SERVANTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise TaskError("PostgreSQL does not run as root: run `make stack` as another user.")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing."
