"""Moves of checkouts that share an MLflow server are kept apart there.

Creating a registered model of a given name succeeds for one of them only, and its name is free
again once it is deleted.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry import promotion_log
from tasks.system import atomic_files
from tasks.system.locks import saying_so

if TYPE_CHECKING:
    from mlflow import MlflowClient

# How long the mark of another checkout that began a move must stand before it counts as dead: a
# move takes a second.
PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def alone(client: MlflowClient, name: str, who: str, root: str | Path) -> Iterator[None]:
    """Keep other checkouts' moves of the model away."""
    from mlflow.exceptions import MlflowException

    mark, mine = f"{name}.moving", _checkout(root)
    mark_of(root).write_text(name, encoding="utf-8")
    with saying_so(lambda: _for_other(client, mark)):
        _leave_mark(client, mark, mine, who)
    try:
        yield
    finally:
        # If MLflow went away: the next touch from here takes it away.
        with contextlib.suppress(MlflowException):
            client.delete_registered_model(mark)
            mark_of(root).unlink()


def _leave_mark(client: MlflowClient, mark: str, mine: str, who: str) -> None:
    from mlflow.exceptions import MlflowException

    seen, since = ("", 0), time.monotonic()
    while True:
        try:
            client.create_registered_model(mark, tags={"checkout": mine, "by": who})
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        holder = _holder(client, mark)
        if holder[0] == mine:
            break  # a process of this checkout died with it
        if holder != seen:
            seen, since = holder, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            with contextlib.suppress(MlflowException):
                client.delete_registered_model(mark)
        time.sleep(0.1)


def _for_other(client: MlflowClient, mark: str) -> str:
    from mlflow.exceptions import MlflowException

    who, since = "somebody", "a moment ago"
    with contextlib.suppress(MlflowException):
        found = client.get_registered_model(mark)
        who = found.tags.get("by") or who
        began = datetime.fromtimestamp(found.creation_timestamp / 1000).astimezone()
        since = began.isoformat(timespec="seconds")
    return (
        f"a move of {who} from another checkout, started {since}: it holds the registered model "
        f"{mark} on the MLflow server. This goes on by itself, after {PATIENCE_SECONDS:.0f} "
        "seconds also if that move broke off."
    )


def _holder(client: MlflowClient, mark: str) -> tuple[str, int]:
    """Which checkout's mark it is, and from when; empty if it is gone."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(mark)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "", 0
    return str(found.tags.get("checkout", "")), int(found.creation_timestamp)


def _checkout(root: str | Path) -> str:
    """A name for this checkout that no other one has."""
    path = promotion_log.home(root).with_name("checkout-id")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.replace(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def mark_of(root: str | Path) -> Path:
    """Reports that this checkout may have left its mark on the server, for which model."""
    return promotion_log.home(root).with_name("moving")
