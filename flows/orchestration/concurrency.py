"""One run at a time of each model, whatever deployments they come from: Prefect's own limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.settings.loading import load_params


def limit_of(root: Path) -> str:
    """The name of the model's concurrency limit, as Prefect's page of limits shows it."""
    return f"instar-{load_params(root / 'params.yaml').register_.name}"


def ensure_limit(root: Path) -> str:
    """Make the limit if Prefect lacks it; one that somebody has changed stays.

    Returns:
        Its name.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    name = limit_of(root)
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # another run was faster
                wanted = GlobalConcurrencyLimitCreate(name=name, limit=1)
                client.create_global_concurrency_limit(wanted)
    return name


@contextmanager
def one_of_the_model(root: Path) -> Iterator[None]:
    """Hold the model's slot, once the run before has given it back.

    That of a run that was killed comes free when its lease ends, within five minutes.
    """
    from prefect.concurrency.sync import concurrency

    with concurrency(ensure_limit(root), occupy=1):
        yield
