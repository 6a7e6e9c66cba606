"""A git and DVC project with toy stages, for the tests of runner, remote and workspace."""

import subprocess
import sys
from pathlib import Path

import numpy as np

PIPELINE = """\
stages:
  copy:
    cmd: python shout.py
    params: [speed]
    deps: [shout.py, input.txt]
    outs: [output.txt]
"""

COPY = """\
import pathlib, sys
text = pathlib.Path("input.txt").read_text()
print("copying", len(text), "characters")
if text.startswith("complain"):
    folder = pathlib.Path(".instar/errors"); folder.mkdir(parents=True, exist_ok=True)
    (folder / "copy.txt").write_text("input.txt holds a complaint: write something else into it.")
    sys.exit(1)
if text.startswith("crash"):
    raise ValueError("a bug")
if text.startswith("sleep"):
    import subprocess, time
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "toy-grandchild"])
    time.sleep(600)
pathlib.Path("output.txt").write_text(text.upper())
"""


def make_toy_project(root: Path) -> Path:
    """Write the project into `root` and commit it; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Tester")
    git(root, "config", "user.email", "tester@localhost")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    (root / ".dvc" / "config").write_text(
        "[core]\n    remote = local\n    analytics = false\n"
        "['remote \"local\"']\n    url = ../.instar/remote\n"
    )
    (root / ".gitignore").write_text(".instar/\n/output.txt\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text("speed: 1\n")
    (root / "shout.py").write_text(COPY)
    (root / "input.txt").write_text("hello")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "toy project")
    return root


def write_images(path: Path) -> None:
    """Images enough for the settings that a project has by default."""
    images = np.zeros((800, 8, 8), np.uint8)
    with path.open("wb") as file:
        np.savez(file, train_images=images, train_labels=np.arange(800) % 2)


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
