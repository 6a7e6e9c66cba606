"""What must hold before a run starts."""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from pathlib import Path

from tasks.errors import TaskError
from tasks.settings.data_path import BUILT_IN, dvc_file_of, require_hashable
from tasks.settings.loading import load_params
from tasks.system.url_paths import require_place
from tasks.versioning.dvc_remote import require_dvc
from tasks.versioning.git import require_git


def require_project(root: Path) -> None:
    """Refuse before anything starts: no git or DVC, an invalid params.yaml, unfit paths or data.

    Raises:
        TaskError: Says which, and the remedy.
    """
    require_place(root)
    require_git(root)
    require_dvc(root)
    params = load_params(root / "params.yaml")
    require_hashable(root / params.data.path)


def new_run_id() -> str:
    """A name for one run that sorts by time and never repeats."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find_data_at_home(root: Path, home: Path) -> None:
    """See that a worktree of the checkout `home` has its raw data.

    Raises:
        TaskError: `data.path` lies in the checkout, but neither git nor DVC tracks it.
    """
    data = load_params(root / "params.yaml").data
    if data.source in BUILT_IN:
        # Pinned by checksum, so it may come from the checkout's own download.
        os.environ.setdefault("INSTAR_DATASETS", str(home / "data" / "raw"))
    # What a .dvc file tracks `fetch` brings.
    elif not (root / data.path).exists() and not dvc_file_of(Path(data.path), root):
        raise TaskError(
            f"data.path: {data.path} is in no commit, so a scheduled run cannot see it: "
            f"`dvc add {data.path}`, commit the .dvc file, `dvc push`."
        )
