"""Seeds that are functions of *what* is drawn, never of how often something was drawn before.

A stream that is advanced by use depends on the number of workers and on where a run was resumed.
A seed keyed by its purpose, e.g. ``keyed_seed(seed, "permutation", epoch)``, depends on neither.
"""

import hashlib


def keyed_seed(*parts: int | str) -> int:
    """A 64-bit seed out of a key, the same in every process, machine and Python version.

    Parts are encoded with their type and length, so that ``("a", "bc")`` and ``("ab", "c")``, or
    ``1`` and ``"1"``, give unrelated seeds.

    Args:
        *parts: The key: base seed, purpose, epoch, step, index …

    Returns:
        A number in ``[0, 2**64)``, fit for ``torch.Generator.manual_seed`` and
        ``numpy.random.default_rng``.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if not isinstance(part, int | str):
            raise TypeError(f"a seed's key is made of int and str, not {type(part).__name__}")
        encoded = f"{'s' if isinstance(part, str) else 'i'}{part}".encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")
