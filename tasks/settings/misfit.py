"""A setting that does not fit the data, and what would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.settings.loading import validate_params
from tasks.settings.schema import Params


@dataclass(frozen=True)
class Misfit:
    """A setting that some stage would refuse for these data.

    Attributes:
        problem: The setting, its value, and what the data have, in words.
        remedy: Settings with values that do; empty where none would.
    """

    problem: str
    remedy: Mapping[str, Any] = field(default_factory=dict)


def with_remedy(params: Params, remedy: Mapping[str, Any]) -> Params:
    """The settings with some of them set, valid as a whole; keys as `instar set` takes them."""
    raw = params.model_dump(mode="json", by_alias=True)
    for key, value in remedy.items():
        *groups, last = key.split(".")
        inner = raw
        for group in groups:
            inner = inner[group]
        inner[last] = value
    return validate_params(raw)
