"""Whether the servers, folders and buckets that a checkout uses answer; nothing is started."""

from __future__ import annotations

import base64
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from tasks.operations.check import Check
from tasks.system.proxies import by_proxy, open_url, proxy_of
from tasks.system.redaction import shown
from tasks.tracking.client import tracking_uri_of
from tasks.versioning.dvc_remote import default_remote, dvc_settings, require_dvc

PATIENCE = 3.0
_AWS = "https://s3.amazonaws.com"
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_remote(root: Path) -> Check:
    """The default DVC remote: that it can be reached, and written if it is a folder."""
    name = "DVC remote"
    require_dvc(root)
    settings = dvc_settings(root)
    remote = default_remote(settings)
    if remote is None:
        return Check(name, False, "none is set", "`dvc remote add -d NAME URL`")
    url = urlsplit(remote[1])
    if not url.scheme:
        return _folder(name, Path(remote[1]))
    if url.scheme == "s3":
        of_remote = f"remote.{remote[0]}."
        mine = {
            k.removeprefix(of_remote): v for k, v in settings.items() if k.startswith(of_remote)
        }
        return _bucket(name, url.netloc, mine)
    return Check(name, True, f"{shown(remote[1])} (not asked: only folders and s3 are)")


def check_mlflow(root: Path) -> Check:
    """MLflow's server or database: that it answers."""
    uri = tracking_uri_of(root)
    where, parts = shown(uri), urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return _page("MLflow", uri.rstrip("/"), where)
    if parts.scheme.startswith("sqlite"):
        return _database("MLflow", Path(uri.partition(":///")[2].partition("?")[0]))
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme.split("+")[0], 0)
    if parts.hostname and port:
        return _port("MLflow", parts.hostname, port, where)
    remedy = "set MLFLOW_TRACKING_URI to a server or a database"
    return Check("MLflow", False, f"{where} is neither", remedy)


def web_servers(root: Path) -> dict[str, str]:
    """The addresses of the servers that this checkout uses by HTTP."""
    found = {"MLflow": tracking_uri_of(root), "Prefect": os.environ.get("PREFECT_API_URL", "")}
    settings = dvc_settings(root)
    remote = default_remote(settings)
    if remote is not None and urlsplit(remote[1]).scheme == "s3":
        endpoint = settings.get(f"remote.{remote[0]}.endpointurl") or os.environ.get(
            "AWS_ENDPOINT_URL_S3"
        )
        found["DVC remote"] = endpoint or _AWS
    elif remote is not None:
        found["DVC remote"] = remote[1]
    return {name: url for name, url in found.items() if url.startswith(("http://", "https://"))}


def _page(name: str, address: str, where: str) -> Check:
    """Its health, which anyone may ask for, then one request as the user."""
    search = urllib.request.Request(f"{address}/api/2.0/mlflow/experiments/search", method="POST")
    search.data = b'{"max_results": 1}'
    search.add_header("Content-Type", "application/json")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{n}", "") for n in ("USERNAME", "PASSWORD"))
    if user:
        account = base64.b64encode(f"{user}:{password}".encode()).decode()
        search.add_header("Authorization", f"Basic {account}")
    try:
        open_url(f"{address}/health", PATIENCE).close()
        with open_url(search, PATIENCE) as reply:
            if not reply.read(256).lstrip().startswith(b"<"):
                return Check(name, True, f"answers{f' user {user}' if user else ''} at {where}")
        found = f"a web page comes instead of MLflow at {where}{by_proxy(address)}"
    except urllib.error.HTTPError as error:
        found = f"{where} answers {error.code} {error.reason}{by_proxy(address)}"
        if error.code == 401:
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what it knows"
            return Check(name, False, found, remedy)
    except (OSError, ValueError) as error:
        found = f"does not answer at {where}{by_proxy(address)} ({error})"
    if proxy_of(address):
        remedy = "correct the proxy, or let NO_PROXY name the server if it is reached directly"
        return Check(name, False, found, remedy)
    remedy = "start it, or correct MLFLOW_TRACKING_URI; runs go on, `instar sync` delivers later"
    return Check(name, False, found, remedy)


def _database(name: str, path: Path) -> Check:
    if not path.exists():
        return Check(name, True, f"{path} is made by the first run")
    try:
        # Not immutable, not locked for long: a run may be writing.
        address = f"{path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except (sqlite3.Error, ValueError) as error:
        remedy = "move the file away and `instar sync --all`: runs are rebuilt"
        return Check(name, False, f"{path}: {error}", remedy)
    return Check(name, True, f"database at {path}")


def _port(name: str, host: str, port: int, where: str) -> Check:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        remedy = "start the database, or correct MLFLOW_TRACKING_URI"
        return Check(name, False, f"no database at {where} ({error})", remedy)
    return Check(name, True, f"a database listens at {where}")


def _folder(name: str, folder: Path) -> Check:
    if not folder.exists():
        return Check(name, True, f"{folder} is made by the first push")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Check(name, False, f"no permission for {folder}", "fix its owner or mode")
    return Check(name, True, f"folder {folder}")


def _bucket(name: str, bucket: str, settings: Mapping[str, str]) -> Check:
    """One request to the bucket, with the very keys and address that DVC would use."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = settings.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL_S3")
    where = f"bucket {bucket} at {shown(endpoint or 'AWS')}{by_proxy(endpoint or _AWS)}"
    try:
        client = botocore.session.Session(profile=settings.get("profile")).create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.get("region") or os.environ.get("AWS_REGION", "us-east-1"),
            aws_access_key_id=settings.get("access_key_id"),
            aws_secret_access_key=settings.get("secret_access_key"),
            config=Config(
                connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"max_attempts": 0}
            ),
        )
        # Not its head alone: a proxy's page has one too.
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "?")
        remedy = {
            404: "create it, or correct the remote's url (`dvc remote modify … url s3://…`)",
            403: "correct the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the remote's)",
        }.get(code, "see the object store's own log")
        return Check(name, False, f"{where} answers {code}", remedy)
    except (BotoCoreError, ValueError) as error:
        error = " ".join(str(error).split())[:200]
        remedy = "start it, or correct the remote's endpointurl; runs go on, `instar sync` pushes"
        return Check(name, False, f"{where} does not answer ({error})", remedy)
    return Check(name, True, f"{where} answers")
