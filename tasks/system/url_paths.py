"""Where a checkout may lie: its path gets into URLs, settings and search paths of other programs.

What can be quoted there is quoted where it is written. The rest is refused before anything starts,
as a library would take it for something else, and write outside the checkout.
"""

from __future__ import annotations

import re
from pathlib import Path

from tasks.errors import TaskError

# What cannot be quoted for everyone below, and who does what with it.
_UNFIT = {
    r"\?": "MLflow's and Prefect's databases end the path there",
    r":": "PATH and PYTHONPATH part there",
    r"%\(": "DVC takes it for the name of another setting",
    r"[{}]": "DVC takes it for a value to fill in",
    r"'.*\"|\".*'": "MLflow quotes it by one of ' and \" for its database",
    r"[\x00-\x1f\x7f]": "DVC's settings part lines there",
}


def require_place(folder: str | Path, also: str = "") -> None:
    """Refuse a folder whose path a library would not take as it is.

    Args:
        folder: What lies there is a checkout, or a server's.
        also: Further signs that whoever is to use it does not take.

    Raises:
        TaskError: Names the sign and what would become of it.
    """
    path = str(Path(folder).resolve())
    problem = None
    try:
        path.encode()
    except UnicodeEncodeError:
        problem = "it is not valid UTF-8, as MLflow's and Prefect's databases need it"
    for pattern, reason in _UNFIT.items():
        if found := re.search(pattern, path):
            problem = f"it holds {found[0]!r}: {reason}"
    if unfit := [sign for sign in also if sign in path]:
        problem = f"it holds {unfit[0]!r}: a server takes that for a list of folders"
    if problem is not None:
        raise TaskError(f"the folder {path!r} cannot be used: {problem}. Rename or move it.")
