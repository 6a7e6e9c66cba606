"""DVC's remote: the second place where data and artifacts lie, so that a commit can be rebuilt."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from configobj import ConfigObj

from tasks.errors import TaskError
from tasks.settings.data_path import dvc_file_of
from tasks.settings.project_files import require_readable
from tasks.versioning.dvc import dvc_complaint, run_dvc

# Seconds between attempts to push: long enough for a server that is being restarted.
PUSH_PAUSES = (5.0, 15.0)

# What object stores say of keys that are wrong, lack a right, or are not given at all.
_REFUSAL = re.compile(
    r"An error occurred \((403|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId"
    r"|ExpiredToken)\)|Unable to locate credentials"
)


def require_dvc(root: Path | str) -> None:
    """Raise TaskError unless `root` is a DVC project with a pipeline, and its files are whole."""
    root = Path(root)
    if not (root / ".dvc").is_dir():
        raise TaskError(f"{root} is not a DVC project: run `dvc init` there.")
    if not (root / "dvc.yaml").is_file():
        raise TaskError(f"{root / 'dvc.yaml'} not found: restore it with `git checkout dvc.yaml`.")
    require_readable(root)


def dvc_settings(root: Path | str) -> dict[str, str]:
    """DVC's merged configuration, `section.key` to value; local paths are absolute.

    Raises:
        TaskError: `root` is not a DVC project, or its configuration is not valid.
    """
    answer = run_dvc(["config", "--list"], root)
    if answer.returncode != 0:
        raise TaskError(f"dvc cannot read its settings: {dvc_complaint(answer.stdout)}")
    pairs = (line.partition("=") for line in answer.stdout.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def write_dvc_settings(path: Path, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Add to a `config.local`, which nobody else may read: it may hold credentials.

    Written by the library that DVC reads it with: a path may hold a comma or a #.

    Args:
        path: The file, which need not be there.
        settings: Values by section (`cache`, `remote "NAME"`) and key.
    """
    path.touch(mode=0o600)
    config = ConfigObj(str(path), encoding="utf-8", interpolation=False)
    for section, values in settings.items():
        config.setdefault(section, {}).update(values)
    config.write()


def default_remote(settings: dict[str, str]) -> tuple[str, str] | None:
    """Name and URL of the default remote in `dvc_settings`; None without one."""
    name = settings.get("core.remote")
    url = settings.get(f"remote.{name}.url")
    return (name, url) if name and url else None


def fetch(root: Path | str) -> str:
    """Get into the cache what the remote has and this machine lacks, as far as possible.

    Returns:
        What happened, for a person: a run goes on without the remote, it only computes more.
    """
    settings = dvc_settings(root)
    remote = default_remote(settings)
    if remote is None:
        return "no DVC remote is set"
    if not urlsplit(remote[1]).scheme and not _holds_files(Path(remote[1])):
        return "the DVC remote is still empty"
    if f"remote.{remote[0]}.verify" not in settings:
        # DVC takes a truncated object for the whole one unless asked to look.
        run_dvc(["config", "--local", f"remote.{remote[0]}.verify", "true"], root)
    answer = run_dvc(["fetch", "--run-cache"], root)
    if answer.returncode == 0:
        return "fetched"
    if _refused(answer.stdout):
        return (
            "the object store refuses the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the "
            "remote's own), so all that it holds will be computed"
        )
    return f"not all could be fetched ({dvc_complaint(answer.stdout)}); it will be computed"


def restore(path: str, root: Path | str) -> None:
    """Put data that a `.dvc` file tracks, and that is not there, in its place from the cache.

    Raises:
        TaskError: The cache lacks it, and so does the remote that was fetched from.
    """
    file = dvc_file_of(Path(path), Path(root))
    if (Path(root) / path).exists() or file is None:
        return
    answer = run_dvc(["checkout", "--quiet", str(file)], root)
    if answer.returncode != 0 or not (Path(root) / path).exists():
        raise TaskError(
            f"data.path: {path} is not there, and neither cache nor remote holds what {file} "
            "tracks: `dvc push` it where it is, or put it back."
        )


def push(root: Path | str) -> None:
    """Send all that dvc.lock names, and the run-cache, to the default remote.

    Raises:
        TaskError: Nothing confirms that the remote has it all; the work itself is kept.
    """
    answer = run_dvc(["push", "--run-cache"], root)
    for pause in PUSH_PAUSES:
        if answer.returncode == 0 or "no remote specified" in answer.stdout:
            break
        if _refused(answer.stdout):
            break  # as it will be the next time
        time.sleep(pause)
        answer = run_dvc(["push", "--run-cache"], root)
    if "no remote specified" in answer.stdout:
        raise TaskError(
            "no DVC remote is set, so nothing outside this checkout could rebuild the model: "
            "`dvc remote add -d NAME URL`, then run again (what was computed is kept)."
        )
    if answer.returncode != 0 and _refused(answer.stdout):
        raise TaskError(
            "the object store of the DVC remote refuses the keys: correct AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or the remote's own), then `instar sync` pushes what was "
            "computed, which is kept, and registers the model."
        )
    if answer.returncode != 0:
        raise TaskError(
            f"dvc push failed {1 + len(PUSH_PAUSES)} times: {dvc_complaint(answer.stdout)}. What "
            "was computed is kept and waits: once the remote answers (see `instar doctor`), "
            "`instar sync` pushes it and registers the model."
        )


def _refused(output: str) -> bool:
    return _REFUSAL.search(output) is not None


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
