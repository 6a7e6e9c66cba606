"""A checkout and a registered model with versions that nobody trained, and processes that die."""

import os
import shutil
import signal
from pathlib import Path

from mlflow import MlflowClient

from tasks.registry import promotion_log, promotion_log_git, transitions
from tasks.registry.move import Move
from tasks.system import atomic_files
from tasks.tracking.client import connect
from tests.tasks.conftest import git, uri

WRITES = (
    "create_registered_model", "set_registered_model_alias", "delete_registered_model_alias",
    "transition_model_version_stage", "set_model_version_tag", "delete_registered_model",
)  # fmt: skip


def make_registry(root, database, versions=3):
    """Version 1 of `tiny` is champion, 2 challenger, others stand nowhere."""
    root.mkdir()
    shutil.copyfile(database, root / "mlflow.db")
    (root / ".gitignore").write_text(".instar\nmlflow.db\n")
    (root / "params.yaml").write_text((Path(__file__).parents[2] / "params.yaml").read_text())
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    client = connect(uri(root))
    client.create_registered_model("tiny")
    for _ in range(versions):
        client.create_model_version("tiny", source="/nowhere", await_creation_for=0)
    transitions.move(Move("tiny", "1", "champion", "Ada", "first"), root, uri(root))
    transitions.move(Move("tiny", "2", "challenger", "Ada", "next"), root, uri(root))
    return root


def promote_and_die(root, step):
    """Promotes version 2 and is killed before the `step`-th thing that it writes."""
    left = step

    def dying(write, counts=lambda *_: True):
        def attempt(*arguments, **named):
            nonlocal left
            if counts(*arguments):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return write(*arguments, **named)

        return attempt

    for method in WRITES:
        setattr(MlflowClient, method, dying(getattr(MlflowClient, method)))
    transitions.set_tags = dying(transitions.set_tags)
    atomic_files.replace = dying(atomic_files.replace)
    promotion_log.append = dying(promotion_log.append)
    promotion_log.mirror = dying(promotion_log.mirror)
    promotion_log_git.git = dying(
        promotion_log_git.git, lambda _, verb, *rest: verb == "update-ref"
    )
    Path.unlink = dying(Path.unlink, lambda path, *_: path.name == "move.json")
    transitions.move(Move("tiny", "2", "champion", "Ada", "better", {"gain": 0.1}), root, uri(root))
