"""Where a checkout keeps what stages make, and the names of the stages."""

from __future__ import annotations

from pathlib import Path

STAGES = ("prepare", "pretrain", "finetune", "evaluate")
ARTIFACTS = Path("artifacts")
STATE = Path(".instar")


def complaint_of(name: str) -> Path:
    """Where the stage leaves its explanation, for the flow to find."""
    return STATE / "errors" / f"{name}.txt"
