"""Shards of the packed store: how many images fit into memory, and their checksums."""

import hashlib
from pathlib import Path


def images_within(budget: int, size: int, channels: int) -> int:
    """How many images fit into so many bytes, at least one: what bounds memory at any size."""
    return max(1, budget // (size * size * channels))


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
