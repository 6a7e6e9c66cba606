"""Raw data as another revision of git has them: their `.dvc` file, and what it tracks."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import TaskError
from tasks.lineage import git
from tasks.params import load_params
from tasks.presence import dvc_file_of
from tasks.runner import dvc_complaint, run_dvc


def use_data_of(revision: str, root: Path) -> None:
    """Puts the raw data of a revision in place of the present ones, in a workspace of its own.

    Args:
        revision: A commit, tag or branch.
        root: The workspace, whose `.dvc` file is changed; the run's commit will hold it.

    Raises:
        TaskError: DVC does not track the data, git has no such revision or none with these data, or
            neither cache nor remote holds them.
    """
    path = load_params(root / "params.yaml").data.path
    file = dvc_file_of(Path(path), root)
    if file is None:
        raise TaskError(
            f"data_revision: DVC does not track {path}, so there is one revision only: "
            f"`dvc add {path}` and commit the .dvc file."
        )
    commit = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if not commit:
        raise TaskError(f"data_revision: git knows no {revision}: give a commit, tag or branch.")
    if not git(root, "ls-tree", "--name-only", commit, "--", str(file), check=False):
        raise TaskError(
            f"data_revision: {revision} has no {file}: choose one that tracks the data."
        )
    git(root, "checkout", commit, "--", str(file))
    run_dvc(["fetch", str(file)], root)  # what is in the cache needs no remote
    answer = run_dvc(["checkout", "--quiet", "--force", str(file)], root)
    if answer.returncode != 0:
        raise TaskError(
            f"data_revision: neither cache nor remote holds {path} of {revision} "
            f"({dvc_complaint(answer.stdout)}): `dvc push` it where it is."
        )
