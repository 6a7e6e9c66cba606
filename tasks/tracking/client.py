"""Connecting to MLflow, and its troubles in words."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ServerAwayError, TaskError
from tasks.system import redaction
from tasks.system.proxies import by_proxy
from tasks.system.redaction import shown
from tasks.system.url_paths import require_place

if TYPE_CHECKING:
    from mlflow import MlflowClient


class explained:
    """A client, and MLflow's failures as one sentence with a remedy."""

    def __init__(self, tracking_uri: str):
        self.uri = tracking_uri

    def __enter__(self) -> MlflowClient:
        return connect(self.uri)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from mlflow.exceptions import MlflowException

        refused = refusal(self.uri, error)
        if refused is not None:
            raise TaskError(refused) from None
        if isinstance(error, MlflowException):
            said = redaction.shown(" ".join(str(error).split()))[:300]
            where = redaction.shown(self.uri)
            # Not `from error`: what it says may hold the password, and would be logged.
            raise ServerAwayError(
                f"MLflow at {where}{by_proxy(self.uri)}: {said}. Check that it runs there, then "
                "try again."
            ) from None


def tracking_uri_of(root: str | Path = ".") -> str:
    """MLFLOW_TRACKING_URI, or the checkout's own mlflow.db (also MLflow's default there).

    A relative path of a database counts from the checkout, wherever a process works.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/:].*)", given)
    if relative is None:
        return given
    require_place(root)
    return f"{relative[1]}{Path(root).resolve()}/{relative[2]}"


def refusal(uri: str, error: BaseException | None) -> str | None:
    """One sentence if MLflow answered but refused the user; None for any other trouble."""
    from mlflow.exceptions import MlflowException

    code = error.error_code if isinstance(error, MlflowException) else None
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if code == "UNAUTHENTICATED":
        wrong = f"does not know user {user} with this password" if user else "asks who you are"
        return (
            f"MLflow at {shown(uri)} {wrong}: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to what it knows."
        )
    if code == "PERMISSION_DENIED":
        return (
            f"MLflow at {shown(uri)} does not let user {user or 'nobody'} change this: ask its "
            "administrator for the right (EDIT to a model or experiment), or act as another user "
            "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)."
        )
    return None


def connect(tracking_uri: str) -> MlflowClient:
    """A client that gives up on a dead server in seconds, not in MLflow's default minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Else a server's addresses of each run stand between the run's own lines.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Nor a bar of MLflow's for each small file.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    # The first use of a database tells each of some forty migrations.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def require_answer(client: MlflowClient) -> None:
    """Raises what MLflow raises when it is away; cheap when it is there."""
    client.search_experiments(max_results=1)
