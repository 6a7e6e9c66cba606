"""Runs one stage as `dvc repro --single-item <stage>` does, and says what came of it.

DVC alone decides whether there is anything to compute. The stage's stderr is this process' own
when that is a terminal (the stage draws its progress bar there); everything else that DVC and the
stage print goes to `.instar/logs/<stage>.log`.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import OUT_OF_MEMORY, TaskError, no_space
from tasks.layout import complaint_of
from tasks.settings.data_path import dvc_file_of
from tasks.settings.project_files import read_yaml
from tasks.system.locks import held
from tasks.system.supervised_process import Leash
from tasks.system.terminal import at_terminal
from tasks.versioning.dvc import dvc_command, dvc_complaint, dvc_environment, lockout_of, run_dvc
from tasks.versioning.dvc_rwlock import forget_the_dead
from tasks.versioning.stage_key import stage_key

LineReader = Callable[[str], None]

_UNCHANGED = re.compile(r"^Stage '.*' (didn't change, skipping|is cached - skipping run)")
_WOULD_RUN = re.compile(r"^Running stage '([^']+)'")
_STOPPED = re.compile(r"failed to reproduce '([^']+)': \[Errno 2\] [^']+'([^']+)'")
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class StageOutcome:
    """How a stage went: computed now ('ran') or known already ('cached').

    Attributes:
        stage: Name of the stage.
        status: 'cached' means unchanged or restored from DVC's run-cache.
        seconds: Wall-clock time, DVC's own included.
        key: The stage key, see `tasks.versioning.stage_key.stage_key`.
    """

    stage: str
    status: Literal["ran", "cached"]
    seconds: float
    key: str


def run_stage(
    stage: str,
    root: Path | str,
    on_line: LineReader | None = None,
    on_wait: LineReader | None = None,
    *,
    force: bool = False,
) -> StageOutcome:
    """Bring one stage up to date, its upstream stages left as they are.

    The stage and everything it starts end with this process, whatever ends it.

    Args:
        stage: A stage of dvc.yaml.
        root: The checkout to run in.
        on_line: Called with every line that DVC and the stage print (not with the progress bar).
        on_wait: Called with the process that computes the same now; this one waits for it.
        force: Compute, whatever is there or in DVC's run-cache.

    Raises:
        TaskError: The stage failed; the message is the stage's own explanation.
    """
    root = Path(root)
    started = time.monotonic()
    status, lines = _repro(stage, root, on_line, on_wait, force)
    if status != 0:
        raise TaskError(_why(stage, root, status, lines))
    cached = any(_UNCHANGED.match(line) for line in lines)
    return StageOutcome(
        stage,
        "cached" if cached else "ran",
        time.monotonic() - started,
        stage_key(stage, root),
    )


def planned_stages(root: Path | str) -> list[str]:
    """The stages that `dvc repro` would look at for a run now, in order.

    A stage listed here may still turn out to be in DVC's run-cache.

    Raises:
        TaskError: DVC cannot read the project.
    """
    answer = run_dvc(["repro", "--dry"], root)
    matches = (_WOULD_RUN.match(line) for line in answer.stdout.splitlines())
    found = [match.group(1) for match in matches if match]
    if answer.returncode == 0:
        return _with_followers(found, Path(root))
    # In a fresh clone DVC stops at the first stage whose input is still to be made, or pulled.
    stopped = _STOPPED.search(answer.stdout)
    if not stopped or not (found or dvc_file_of(Path(stopped.group(2)), Path(root))):
        raise TaskError(f"dvc cannot plan the run: {dvc_complaint(answer.stdout)}")
    stages = list(read_yaml(Path(root) / "dvc.yaml")["stages"])
    return found + stages[stages.index(stopped.group(1)) :]


def _with_followers(found: list[str], root: Path) -> list[str]:
    """With what hangs on these stages: DVC lists only those whose own inputs have changed already.

    Stages stand in dvc.yaml in their order.
    """
    listed: list[str] = []
    changing: list[str] = []
    for name, described in read_yaml(root / "dvc.yaml")["stages"].items():
        deps = [dep for dep in described.get("deps", []) if isinstance(dep, str)]
        if name in found or any(Path(dep).is_relative_to(out) for dep in deps for out in changing):
            listed.append(name)
            outs = described.get("outs", []) + described.get("metrics", [])
            changing += [out for out in outs if isinstance(out, str)]
    return listed


def started(line: str) -> bool:
    """Whether this line of DVC's says that a stage computes now: it was not in the cache."""
    return _WOULD_RUN.match(line) is not None


def log_of(stage: str) -> Path:
    """Where the output of a stage goes, within its checkout."""
    return Path(".instar") / "logs" / f"{stage}.log"


def _repro(
    stage: str, root: Path, on_line: LineReader | None, on_wait: LineReader | None, force: bool
) -> tuple[int, list[str]]:
    """Let DVC run the stage when no other flow, in whatever worktree, computes the very same.

    What another has computed DVC then finds in its cache.
    """
    log = root / log_of(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    turn = root / ".instar" / "locks" / f"{stage}-{stage_key(stage, root)}.lock"
    with held(turn, f"run of stage {stage}", wait=True, on_wait=on_wait):
        forget_the_dead(root)
        # A former failure must not explain this one (the stage itself may never get to start).
        (root / complaint_of(stage)).unlink(missing_ok=True)
        how = ["--single-item", *(["--force"] if force else [])]
        return _follow(["repro", *how, stage], root, log, on_line)


def _follow(
    arguments: list[str], root: Path, log: Path, on_line: LineReader | None
) -> tuple[int, list[str]]:
    """Run DVC on a leash, copying its lines to `log`; returns exit status and lines."""
    leash = Leash(
        dvc_command(arguments),
        cwd=root,
        env=dvc_environment(),
        stdout=subprocess.PIPE,
        stderr=None if at_terminal() else subprocess.STDOUT,
    )
    lines: list[str] = []
    with leash, log.open("w", encoding="utf-8") as file:
        assert leash.process.stdout is not None
        for raw in leash.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            file.write(line + "\n")
            file.flush()
            lines.append(line)
            if on_line is not None:
                on_line(line)
        return leash.wait(), lines


def _why(stage: str, root: Path, status: int, lines: list[str]) -> str:
    """The stage's own explanation, else the last telling line of its output."""
    complaint = root / complaint_of(stage)
    if complaint.is_file() and (said := complaint.read_text(encoding="utf-8").strip()):
        return said
    output = "\n".join(lines)
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return no_space([root / "artifacts" / stage, root / ".dvc" / "cache", root / ".instar"])
    if locked_out := lockout_of(output):
        return f"stage {stage} could not run: {locked_out}."
    if killed := _killed(stage, output, status):
        return f"{killed} The whole output is in {log_of(stage)}."
    own = [line for line in lines if line.strip() and not line.startswith(("ERROR: failed to",))]
    said = dvc_complaint("\n".join(own))
    return f"stage {stage} failed: {said}. The whole output is in {log_of(stage)}."


def _killed(stage: str, output: str, status: int) -> str | None:
    """What a signal that ended the stage, or DVC itself, most likely means."""
    exited = _EXITED.search(output)
    number = int(exited[1]) if exited else status
    # A shell between reports signal n as 128 + n, DVC alone as -n.
    number = number - 128 if number > 128 else -number
    if number == signal.SIGKILL:
        return f"stage {stage} was killed, most likely for want of memory: {OUT_OF_MEMORY}"
    if number == signal.SIGBUS:
        return (
            f"stage {stage} could not write to memory that a file backs, as when the disk is full: "
            "free some and run again; what was finished before is kept."
        )
    if number in (signal.SIGINT, signal.SIGTERM):
        return f"stage {stage} was interrupted: run again to go on from what it kept."
    with contextlib.suppress(ValueError):
        return f"stage {stage} crashed ({signal.Signals(number).name}): run again to go on."
    return None
