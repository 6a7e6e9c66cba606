"""What one check of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        well: Whether it is as it should be.
        found: What was seen, in words.
        remedy: How to fix it; None if there is nothing to fix, or if `found` says it.
    """

    name: str
    well: bool
    found: str
    remedy: str | None = None
