"""The exceptions of this room."""

from collections.abc import Mapping
from typing import Any


class ModelError(Exception):
    """A problem a user can fix; its text says what is wrong and what to do.

    Attributes:
        remedy: Settings that would do, each with its value; empty where no single one is known.
    """

    def __init__(self, message: str, remedy: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.remedy = dict(remedy or {})


class UnhealthyError(ModelError):
    """A training diverged or collapsed: to go on with it is of no use."""
