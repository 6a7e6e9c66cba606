"""Randomness that is a function of a key, never of what ran before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def keyed_seed(*parts: int | str) -> int:
    """Hash the parts into a 63-bit seed that is the same on every machine and Python."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def reseed(*parts: int | str) -> None:
    """Seed the generators in use by `parts`.

    `torch.manual_seed` does too, but where CUDA has not been used it first writes down the whole
    call stack, which costs more than a small network's forward pass.
    """
    seed = keyed_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Run a block on a generator seeded by `parts`; the global generators come back as they were.

    Covers the CPU and, once CUDA is in use, the current CUDA device.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        reseed(*parts)
        yield
