"""A git and DVC project with one stage in the real frame, that does what `input.txt` says."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parents[2]

PIPELINE = """\
stages:
  prepare:
    cmd: {command}
    deps: [work.py, input.txt]
    outs: [artifacts/prepare/result.txt]
"""
# Every line of input.txt is an order.
WORK = """\
import os, pathlib, signal, sys, time
from tasks.stages.context import stage

with stage("prepare") as run:
    for order in pathlib.Path("input.txt").read_text().split():
        what, _, value = order.partition("=")
        if what == "sleep":
            run.scratch.mkdir(parents=True, exist_ok=True)
            (run.scratch / "epoch-1.ckpt").write_text("checkpoint")
            print("asleep", flush=True)
            time.sleep(float(value))
        if what == "allocate":
            import numpy
            numpy.ones(int(value), dtype="uint8")
        if what == "die_once" and not os.path.exists(".instar/died"):
            pathlib.Path(".instar/died").touch()
            os.kill(os.getpid(), int(value))
        if what == "fill":
            (run.out / "large.bin").write_bytes(bytes(int(value)))
    (run.out / "result.txt").write_text("done")
"""


def make_framed_project(root: Path, orders: str, command: str = "python work.py") -> Path:
    """Write the project into `root` and commit it; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Tester")
    git(root, "config", "user.email", "tester@localhost")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".gitignore").write_text(".instar/\nartifacts/\n")
    (root / "params.yaml").write_text((HERE / "params.yaml").read_text())
    return put_framed_stage(root, orders, command)


def put_framed_stage(root: Path, orders: str, command: str = "python work.py") -> Path:
    """Let the stage be all that the project at `root` has; returns `root`."""
    (root / "dvc.yaml").write_text(PIPELINE.format(command=command))
    (root / "work.py").write_text(WORK)
    (root / "input.txt").write_text(orders)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "framed stage")
    return root


def start(root: Path, *arguments: str, **changes) -> subprocess.Popen:
    """Start `python …` in the project, as its user would."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env={**environment(), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment() -> dict[str, str]:
    """Without what would tie the project to the tests' own leash or DVC."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "INSTAR_", "GIT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PYTHONPATH": str(HERE), "PATH": path}


def processes_in(folder: Path) -> set[int]:
    """Processes that work in the folder or below, or with its code; zombies apart."""
    found = set()
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder)
            with_its_code = process.environ().get("PYTHONPATH", "").startswith(str(folder))
            if (inside or with_its_code) and process.status() != "zombie":
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def stages_in(folder: Path) -> set[int]:
    """Those of them that run a stage's own code."""
    found = set()
    for pid in processes_in(folder):
        try:
            command = psutil.Process(pid).cmdline()
        except psutil.Error:
            continue
        if "work.py" in command[1:2]:
            found.add(pid)
    return found


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
