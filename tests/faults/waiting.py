"""Waiting for what must come to hold, without a promise of how long a busy machine takes."""

import time
from collections.abc import Callable


def until(
    holds: Callable[[], object], complaint: str | Callable[[], str], seconds: float = 60.0
) -> None:
    """Return when it holds; fail with the complaint when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(complaint if isinstance(complaint, str) else complaint())
        time.sleep(0.1)
