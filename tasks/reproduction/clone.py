"""A clone of the repository at a version's tag, with a DVC cache of its own.

Nothing of the checkout but its commits, and where its DVC remote is, gets there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import TaskError
from tasks.execution.workspace import sign_of_life
from tasks.system.locks import HeldError, held
from tasks.system.unattended import git
from tasks.system.url_paths import require_place
from tasks.versioning.dvc_remote import default_remote, dvc_settings, write_dvc_settings

_PLACES = Path(".instar") / "reproduce"


@contextmanager
def private_clone(root: Path, tag: str, keep: Path | None = None) -> Iterator[Path]:
    """Clone what a tag names; the clone is removed at the end, unless it is to be kept.

    One that a killed process left is removed by the next call.

    Args:
        root: The checkout that is cloned.
        tag: A git tag.
        keep: Where the clone is to be made, and stay.

    Raises:
        TaskError: No DVC remote is set, `keep` is there already, or git refuses.
    """
    root = root.resolve()
    remote = _remote(root)
    _sweep(root)
    # Absolute: git would take -x for an option.
    place = keep.absolute() if keep else root / _PLACES / f"{tag.replace('/', '-')}-{os.getpid()}"
    require_place(place)
    if keep and place.exists():
        raise TaskError(f"{place} is there already: name a folder that is not, or remove it.")
    with contextlib.nullcontext() if keep else held(sign_of_life(place), f"reproducing {tag}"):
        try:
            git(root, "clone", "--quiet", "--branch", tag, str(root), str(place))
            _write_settings(place, remote)
            yield place
        finally:
            if not keep:
                shutil.rmtree(place, ignore_errors=True)


def _remote(root: Path) -> dict[str, str]:
    """The settings of the present default remote: since the tag was made it may have moved."""
    settings = dvc_settings(root)
    remote = default_remote(settings)
    if remote is None:
        raise TaskError(
            "no DVC remote is set, and a reproduction takes all from there: "
            "`dvc remote add -d NAME URL`."
        )
    if not urlsplit(remote[1]).scheme and not Path(remote[1]).is_dir():
        raise TaskError(
            f"the folder of the DVC remote, {remote[1]}, is not there: mount it, or set the remote "
            f"again (`dvc remote modify {remote[0]} url PATH`)."
        )
    prefix = f"remote.{remote[0]}."
    chosen = {name: value for name, value in settings.items() if name.startswith(prefix)}
    # DVC takes a damaged object for the whole one unless asked to look.
    return {"core.remote": remote[0], **chosen, f"{prefix}verify": "true"}


def _write_settings(place: Path, remote: dict[str, str]) -> None:
    name = remote["core.remote"]
    prefix = f"remote.{name}."
    own = {key.removeprefix(prefix): v for key, v in remote.items() if key.startswith(prefix)}
    settings = {
        "core": {"remote": name},
        "cache": {"dir": str(place / ".dvc" / "cache")},
        f'remote "{name}"': own,
    }
    write_dvc_settings(place / ".dvc" / "config.local", settings)


def _sweep(root: Path) -> None:
    """Remove clones of killed processes: nobody holds their sign of life."""
    for place in (root / _PLACES).glob("*"):
        if not place.is_dir():
            continue
        with contextlib.suppress(HeldError), held(sign_of_life(place), "sweep"):
            shutil.rmtree(place, ignore_errors=True)
