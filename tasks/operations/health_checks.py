"""Whether an installation and what it talks to are well, and what to do where they are not.

Each check looks at one thing, in seconds, and starts nothing.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import TaskError
from tasks.settings.loading import load_params
from tasks.settings.project_files import require_merged, require_readable, require_unmarked
from tasks.system.proxies import by_proxy, named, open_url, proxy_of, require_certificates, unused
from tasks.system.redaction import shown
from tasks.system.url_paths import require_place
from tasks.tracking.client import tracking_uri_of
from tasks.versioning.dvc_remote import default_remote, dvc_settings, require_dvc
from tasks.versioning.git import require_git, untracked_code

PATIENCE = 3.0
LEAST_FREE_GB = 2.0
# Set, each of them keeps one component from reporting home.
_SILENCERS = ("DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_AWS = "https://s3.amazonaws.com"
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        well: Whether it is as it should be.
        found: What was seen, in words.
        remedy: How to mend it; None if there is nothing to mend, or if `found` says it.
    """

    name: str
    well: bool
    found: str
    remedy: str | None = None


def check_all(root: str | Path) -> list[Check]:
    """Every check that needs no Prefect, in the order in which to mend things."""
    root = Path(root)
    looks: dict[str, Callable[[Path], Check]] = {
        "files": check_files,
        "versions": check_versions,
        "disk": check_disk,
        "git": check_git,
        "settings": check_threads,
        "telemetry": check_telemetry,
        "proxy": check_proxy,
        "DVC remote": check_remote,
        "MLflow": check_mlflow,
    }
    checks: dict[str, Check] = {}
    for name, look in looks.items():
        check = _explained(name, look, root)
        # What stops several looks is told once.
        checks.setdefault(name if check.well else check.found, check)
    return list(checks.values())


def check_files(root: Path) -> Check:
    """The files that hold the project: no merge or crash has left one broken."""
    require_readable(root)
    require_merged(root)
    return Check("files", True, "params.yaml, dvc.yaml, dvc.lock and .dvc files can be read")


def check_versions(root: Path) -> Check:
    """The installed packages against requirements.lock."""
    from packaging.requirements import Requirement

    lock = root / "requirements.lock"
    if not lock.exists():
        found = "requirements.lock is missing"
        return Check("versions", False, found, "`git checkout requirements.lock`")
    require_unmarked(lock)
    wrong, right = [], 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        here = _installed(wanted.name)
        if here is not None and wanted.specifier.contains(here, prereleases=True):
            right += 1
        else:
            wrong.append(f"{wanted.name} {here or 'missing'} (locked: {wanted.specifier})")
    if wrong:
        return Check("versions", False, _listed(wrong), "`bash .ci/setup`")
    return Check("versions", True, f"all {right} packages are those of requirements.lock")


def check_disk(root: Path) -> Check:
    """Space for outputs, checkpoints and DVC's cache, the right to write there, and a fit path."""
    require_place(root)
    free = shutil.disk_usage(root).free / 1e9
    if not os.access(root, os.W_OK):
        return Check("disk", False, f"{root} is read-only", "mend its owner or mode")
    remedy = None
    if free < LEAST_FREE_GB:
        remedy = "free some: `dvc gc --all-branches --all-tags` drops what no run branch or tag has"
    return Check("disk", remedy is None, f"{free:.1f} GB free at {root}", remedy)


def check_git(root: Path) -> Check:
    """A repository with a commit, and no code that no commit would hold."""
    head = require_git(root)
    missing = untracked_code(root)
    if missing:
        found = f"untracked code: {_listed(missing)}"
        return Check("git", False, found, "`git add` it, else no model can be registered")
    return Check("git", True, f"at {head[:12]}, no untracked code")


def check_threads(root: Path) -> Check:
    """What params.yaml asks of the processor against what there is."""
    cores = len(os.sched_getaffinity(0))
    params = load_params(root / "params.yaml")
    fits = params.finetune
    asked = {
        "pretrain.threads": params.pretrain.threads,
        "finetune.workers × finetune.threads": fits.workers * fits.threads,
        "evaluate.threads": params.evaluate.threads,
    }
    over = [f"{name} is {number}" for name, number in asked.items() if number > cores]
    if over:
        found = f"{_listed(over)} on {cores} cores, which slows a run"
        remedy = "lower it by `instar set`; threads are part of the result, workers are not"
        return Check("settings", False, found, remedy)
    return Check("settings", True, f"threads fit on {cores} cores")


def check_telemetry(root: Path) -> Check:
    """That no component reports home, also in commands typed without `instar`."""
    talks = [
        f"{name}={os.environ[name]}"
        for name in _SILENCERS
        if os.environ.get(name, "true").strip().lower() in ("0", "false", "no", "off", "")
    ]
    if os.environ.get("PREFECT_SERVER_ANALYTICS_ENABLED", "false").lower() in ("1", "true", "yes"):
        talks.append("PREFECT_SERVER_ANALYTICS_ENABLED is on")
    if talks:
        return Check("telemetry", False, _listed(talks), "unset it: off is the default here")
    if dvc_settings(root).get("core.analytics") != "false":
        found = "a typed `dvc` command reports its use"
        return Check("telemetry", False, found, "`dvc config core.analytics false`")
    return Check("telemetry", True, "off")


def check_proxy(root: Path) -> Check:
    """Which proxies and certificates the environment names, and which servers they concern."""
    require_certificates()
    servers = _web_servers(root)
    through = [f"{name} by {proxy}" for name, url in servers.items() if (proxy := proxy_of(url))]
    found = (
        f"asked through one: {_listed(through)}" if through else "no server is asked through one"
    )
    if named() and not through:
        found = f"{_listed(named())} is set, but {found}"
    if not unused():
        return Check("proxy", True, found)
    found += f"; {_listed(unused())} is left out, as it is not an HTTP proxy"
    far = [name for name, url in servers.items() if not proxy_of(url) and by_proxy(url)]
    if not far:
        return Check("proxy", True, found)
    remedy = "name an HTTP proxy instead (HTTPS_PROXY=http://…), or unset it"
    return Check("proxy", False, f"{found}: {_listed(far)} is asked directly", remedy)


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


def _web_servers(root: Path) -> dict[str, str]:
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
        return Check(name, False, f"no permission for {folder}", "mend its owner or mode")
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


def _explained(name: str, look: Callable[[Path], Check], root: Path) -> Check:
    try:
        return look(root)
    except TaskError as problem:
        return Check(name, False, str(problem))
    except Exception as error:  # whatever is wrong, the other checks are wanted too
        return Check(name, False, f"cannot be checked: {error!r}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
