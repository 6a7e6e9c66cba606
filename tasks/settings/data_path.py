"""Whether what the settings name is there: asked before a run starts, not during it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from data.sources.file_names import escaped
from data.sources.params import DataParams
from tasks.errors import TaskError
from tasks.settings.schema import Params

# Where DVC's cache, wherever it lies, has a file.
_CACHED = "/files/md5/"
_LINKED = (
    "data.path: DVC has checked {} out as a link into its cache, and links out of the data are not "
    "followed: `dvc config cache.type reflink,hardlink,copy`, then `dvc checkout --relink`."
)

# Sets whose images Instar finds itself; their `data.path` is a tracked file of checksums.
BUILT_IN = ("fashion-mnist", "cifar10")


def require_presence(params: Params, root: Path) -> None:
    """Refuse settings whose data or encoder nobody could find.

    Args:
        params: Settings that are valid as such.
        root: The checkout, from which `data.path` counts.

    Raises:
        TaskError: There is nothing at `data.path`, and no `.dvc` file that would bring it.
        ModelError: No such encoder; the message has the nearest names.
    """
    _require_data(params.data, root)
    if params.pretrain.encoder.name != "resnet_tiny":
        from models.encoders.images.timm_network import (
            require_known,  # timm takes seconds to import
        )

        require_known(params.pretrain.encoder.name)


def dvc_file_of(path: Path, root: Path) -> Path | None:
    """The `.dvc` file, from `root`, that brings a path or a folder around it; None without one."""
    candidates = (Path(f"{place}.dvc") for place in (path, *path.parents))
    return next((file for file in candidates if (root / file).is_file()), None)


def _require_data(data: DataParams, root: Path) -> None:
    path = Path(data.path)
    if (root / path).exists() or dvc_file_of(path, root):
        return
    remedy = "put your images there first, or correct the path"
    if data.source in BUILT_IN:
        remedy = f"for {data.source} it is data/pinned/{data.source}.sha256"
    raise TaskError(f"data.path: there is no {path}; {remedy}.")


def require_hashable(path: Path) -> None:
    """Refuse raw data that DVC cannot hash.

    DVC waits for ever on a pipe, and ends at a link to nothing, at a name that is not UTF-8 and at
    what it may not read. `prepare` itself would only quarantine them; and so it would every file
    that DVC has checked out as a link into its cache.

    Raises:
        TaskError: Names the first of them in the folder `path`, or `path` itself.
    """
    folders = [str(path)] if path.is_dir() else []
    if not folders and path.exists():
        _require(str(path), path)
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_symlink() and _CACHED in os.path.realpath(entry.path):
                        raise TaskError(_LINKED.format(escaped(entry.path)))
                    # A link to a folder is not followed.
                    elif not os.path.isdir(entry.path):
                        _require(entry.path, path)
        except OSError as error:
            raise TaskError(_words(str(error.filename), str(error.strerror), path)) from error


def _require(name: str, path: Path) -> None:
    problem = _problem(name)
    if problem:
        raise TaskError(_words(name, problem, path))


def _problem(name: str) -> str | None:
    try:
        name.encode()
        kind = os.stat(name).st_mode
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISREG(kind):
        return "a pipe, a socket or a device"
    return None if os.access(name, os.R_OK, effective_ids=True) else "no permission to read it"


def _words(name: str, problem: str, path: Path) -> str:
    return (
        f"data.path: DVC cannot hash {escaped(name)} ({problem}); remove or fix it, or pack "
        f"{escaped(path.name)} as a .tar: then it is quarantined with a reason."
    )
