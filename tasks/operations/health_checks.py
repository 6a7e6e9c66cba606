"""Whether an installation and what it talks to are well, and what to do where they are not.

Each check looks at one thing, in seconds, and starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.errors import TaskError
from tasks.operations.check import Check
from tasks.operations.server_checks import check_mlflow, check_remote, web_servers
from tasks.settings.loading import load_params
from tasks.settings.project_files import require_merged, require_readable, require_unmarked
from tasks.system.proxies import by_proxy, named, proxy_of, require_certificates, unused
from tasks.system.url_paths import require_place
from tasks.versioning.dvc_remote import dvc_settings
from tasks.versioning.git import require_git, untracked_code

LEAST_FREE_GB = 2.0
# Set, each of them keeps one component from reporting home.
_SILENCERS = ("DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")


def check_all(root: str | Path) -> list[Check]:
    """Every check that needs no Prefect, in the order in which to fix things."""
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
        # What stops several looks is reported once.
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
        return Check("disk", False, f"{root} is read-only", "fix its owner or mode")
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
    servers = web_servers(root)
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
