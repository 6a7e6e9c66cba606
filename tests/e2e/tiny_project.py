"""A clone of Instar that retrains in a minute: the real rooms, small images, tiny settings."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from tasks.settings.editing import change_settings

HERE = Path(__file__).resolve().parents[2]
ROOMS = ("flows", "tasks", "models", "data")
FILES = ("dvc.yaml", "params.yaml", "prefect.yaml", "requirements.lock", ".gitignore", ".dvcignore")
SETTINGS = (
    "data.source=npz",
    "data.path=digits.npz",
    "data.size=16",
    "pretrain.epochs=1",
    "pretrain.batch_size=64",
    "pretrain.augmentation.view_size=16",
    "pretrain.probe_fraction=0.1",
    "pretrain.threads=1",
    "finetune.label_fraction=0.1",
    "finetune.draws=2",
    "finetune.learner.steps=3",
    "finetune.learner.warmup_steps=0",
    "finetune.workers=1",
    "evaluate.embedding_points=50",
    "evaluate.threads=1",
    "register.name=tiny",
    # Nothing is learned in one epoch; these tests are about the way, not the gain.
    "gate.require_gain=false",
)


def make_tiny_project(root: Path, code: Path = HERE) -> Path:
    """Write the project into `root` with the rooms of `code` and commit it; returns `root`."""
    root.mkdir(parents=True)
    copy_rooms(code, root)
    for name in FILES:
        shutil.copy(code / name, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(code / ".dvc" / name, root / ".dvc" / name)
    write_digits(root / "digits.npz")
    change_settings(root, SETTINGS)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Tester")
    git(root, "config", "user.email", "tester@localhost")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "tiny project")
    return root


def copy_rooms(code: Path, root: Path) -> None:
    """Put the rooms of `code` into the project, in place of what it has."""
    skipped = shutil.ignore_patterns("__pycache__", "raw")
    for room in ROOMS:
        shutil.rmtree(root / room, ignore_errors=True)
        shutil.copytree(code / room, root / room, ignore=skipped)


def copy_project(source: Path, root: Path) -> Path:
    """Copy a project to `root`; what is logged there from now on is kept there, too."""
    shutil.copytree(source, root, symlinks=True)
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute(
            "update experiments set artifact_location = replace(artifact_location, ?, ?)",
            (str(source), str(root)),
        )
    return root


def write_digits(path: Path, train: int = 600) -> None:
    """The 8x8 digits of scikit-learn, doubled: so many to learn from, always the same 200 to test.

    There are 1,597 to learn from.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    labels = digits.target.astype(np.int64)
    learned = np.r_[0:600, 800 : len(labels)][:train]
    np.savez(
        path,
        train_images=images[learned],
        train_labels=labels[learned],
        test_images=images[600:800],
        test_labels=labels[600:800],
    )


def environment(root: Path) -> dict[str, str]:
    """The environment of a user of that project: none of the tests' own servers or paths."""
    ours = ("PREFECT_", "MLFLOW_", "INSTAR_", "DVC_", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }


def instar(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Type `instar …` in the project, with more variables in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=root,
        env={**environment(root), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def dvc(root: Path, *arguments: str) -> str:
    """Type `dvc …` in the project; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dvc", *arguments],
        cwd=root,
        env={**environment(root), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prefect(root: Path, *arguments: str) -> str:
    """Type `prefect …` against the server that the project's worker uses."""
    address = (root / ".instar" / "prefect" / "server" / "address").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=root,
        env={**environment(root), "PREFECT_API_URL": address, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
