"""Why a version cannot be made again here, and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tasks.errors import TaskError
from tasks.system.redaction import shown
from tasks.system.unattended import git
from tasks.versioning.dvc import dvc_complaint

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_LACKING = re.compile(r"Checkout failed for following targets:\n(.+?)\nIs your cache", re.DOTALL)


def no_tag(root: Path, version: ModelVersion) -> NoReturn:
    """Say why the tag of a version is not here, and how to get it.

    Raises:
        TaskError: Always.
    """
    commit = version.tags.get("git_commit", "")
    which = f"{version.name} version {version.version}"
    tag = f"instar/{version.name}/v{version.version}"
    if not commit:
        raise TaskError(
            f"{which} names no git commit, so it was not registered by Instar: what made it "
            "is unknown."
        )
    if git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False):
        raise TaskError(
            f"no git tag {tag} names the commit of {which}: `git fetch --tags`, or "
            f"`git tag {tag} {commit[:12]}`."
        )
    raise TaskError(
        f"{which} was made in another repository, or in a clone that never pushed its tags: this "
        f"one has no commit {commit[:12]}. There `git push origin {tag}`, here `git fetch --tags`; "
        "or type this in that repository."
    )


def why_not_pulled(said: str, tag: str) -> str:
    """What DVC said when it could not pull, in words for a user."""
    unreachable = re.search(r"^ERROR: (failed to connect .*)$", said, re.MULTILINE)
    lacking = _LACKING.search(said)
    if lacking and not unreachable:
        names = ", ".join(sorted(lacking[1].split("\n")))
        return (
            f"the DVC remote lacks what {tag} needs, or holds it damaged: {names}. "
            "`dvc push --all-tags` in the checkout that has it, or compute it too: `--full`."
        )
    told = unreachable[1] if unreachable else dvc_complaint(said)
    return (
        f"the DVC remote does not give what {tag} needs: {shown(told)}. See that it is up and its "
        "keys are right (see `instar doctor`), then try again."
    )
