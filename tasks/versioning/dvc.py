"""DVC's own command line: run, and its complaints in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.system.supervised_process import Leash
from tasks.system.terminal import at_terminal
from tasks.versioning.dvc_rwlock import forget_the_dead

# The very CLI of `dvc`, except that DVC's own stderr (logs, bars) joins its stdout. The command
# that DVC starts still inherits file descriptor 2: a terminal stays a terminal for the stage.
_DVC_MAIN = (
    "import sys; sys.stdout.reconfigure(encoding='utf-8', errors='backslashreplace'); "
    "sys.stderr = sys.stdout; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
)
# While a stage's command runs DVC locks only what it reads and writes, else the whole project.
_LOCKED_OUT = ("Unable to acquire lock", "it is being blocked by")


def run_dvc(arguments: Sequence[str], root: Path | str) -> subprocess.CompletedProcess[str]:
    """Run a DVC command to its end; stdout holds all that it printed.

    On a leash like a stage: a fetch or push that outlived its flow would hold DVC's lock.
    """
    forget_the_dead(root)
    command = dvc_command(arguments)
    leash = Leash(
        command, Path(root), dvc_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with leash:
        assert leash.process.stdout is not None
        printed = leash.process.stdout.read().decode("utf-8", "replace")
        return subprocess.CompletedProcess(command, leash.wait(), printed)


def dvc_command(arguments: Sequence[str]) -> list[str]:
    """The DVC of this interpreter's own environment, whatever PATH says."""
    # -P: a file of the checkout (copy.py, data/, …) must not stand in for a package of DVC.
    return [sys.executable, "-P", "-c", _DVC_MAIN, *arguments]


def dvc_environment() -> dict[str, str]:
    """Environment in which `python` in dvc.yaml is this interpreter, and DVC sends nothing out.

    What a stage prints goes to its log, which is UTF-8, unless it draws on a terminal of its own
    encoding.
    """
    log = {} if at_terminal() else {"PYTHONIOENCODING": "utf-8:backslashreplace"}
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    return {
        **os.environ,
        **log,
        "PATH": f"{here}{os.pathsep}{path}",
        "DVC_NO_ANALYTICS": "true",
        "PYTHONUNBUFFERED": "1",
    }


def dvc_complaint(output: str) -> str:
    """The line of a failed command's output that says most, one line long."""
    if locked_out := lockout_of(output):
        return locked_out
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Having any troubles?")]
    errors = [line for line in lines if line.startswith(("ERROR:", "error:"))]
    said = (errors or lines or ["it said nothing"])[-1]
    return re.sub(r"^(ERROR|error):\s*", "", said)


def lockout_of(output: str) -> str | None:
    """What keeps DVC out of the checkout, and the remedy; None if it was let in.

    DVC tells it in several lines of which none says it all.
    """
    if not any(sign in output for sign in _LOCKED_OUT):
        return None
    holder = re.search(r"\(PID (\d+)\)", output)
    who = f"another DVC command (pid {holder[1]})" if holder else "another DVC command"
    return f"{who} holds this checkout; try again when it has ended"
