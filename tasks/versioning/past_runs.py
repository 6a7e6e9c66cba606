"""What past runs read and made, by the dvc.lock of their commits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.settings.project_files import parse_yaml
from tasks.system.unattended import git


@dataclass(frozen=True)
class RawData:
    """The raw data of a run.

    Attributes:
        path: `data.path` of that run.
        version: DVC's md5 of them.
        count: How many files they were; None for a single one.
    """

    path: str
    version: str
    count: int | None


def last_registered(root: Path, name: str) -> tuple[str, str] | None:
    """Name (`NAME@VERSION`) and commit of the newest registered version, by its git tag."""
    tags = f"refs/tags/instar/{name}/"
    asked = ["--sort=-version:refname", "--sort=-committerdate", "--count=1"]
    found = git(root, "for-each-ref", *asked, "--format=%(refname) %(objectname)", tags)
    if not found:
        return None
    tag, commit = found.split()
    return f"{name}@{tag.removeprefix(tags).removeprefix('v').partition('-')[0]}", commit


def raw_data_of(root: Path, commit: str) -> RawData:
    """The raw data that the stage prepare read in the run of a commit.

    Raises:
        TaskError: The commit is not here, or holds no run.
    """
    path = os.path.normpath(_read(root, commit, "params.yaml")["data"]["path"])
    prepare = _read(root, commit, "dvc.lock").get("stages", {}).get("prepare", {})
    for dep in prepare.get("deps", []):
        if os.path.normpath(dep["path"]) == path:
            return RawData(path, str(dep["md5"]), dep.get("nfiles"))
    raise TaskError(
        f"dvc.lock of {commit[:12]} does not name {path}: `instar run` makes a new one."
    )


def outputs_of(root: Path, commit: str) -> dict[str, str]:
    """Path and md5 of all that the stages of a commit's run made.

    Raises:
        TaskError: The commit is not here, or holds no run.
    """
    stages = _read(root, commit, "dvc.lock")["stages"].values()
    outs = [out for stage in stages for out in stage.get("outs", [])]
    return {os.path.normpath(out["path"]): str(out["md5"]) for out in outs}


def _read(root: Path, commit: str, file: str) -> Any:
    # The commit may be a tag of MLflow's, which anybody with the right to it wrote.
    content = git(root, "show", "--end-of-options", f"{commit}:{file}", check=False)
    if not content:
        raise TaskError(f"git has no {file} of {commit[:12]} here: `git fetch --tags`.")
    return parse_yaml(content.encode(), f"{file} of {commit[:12]}", "Choose another commit.")
