"""Who is in the test set, and which few of the others carry a label; both class by class."""

import numpy as np

from data.errors import DataError
from data.randomness import keyed_seed


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions to split off: of each class the same share, rounded, and never all or none of it.

    Args:
        labels: Class of each row, -1 for none (those are left alone); (N,) integers.
        fraction: Share to split off, in (0, 1).
        seed: Seed; each class has its own stream.

    Returns:
        Sorted positions, int64.

    Raises:
        DataError: A class has fewer than two rows.
    """
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"class number {label} has a single usable image, so none can be split off for "
                "the test; add images of it."
            )
        count = held_out(len(members), fraction)
        random = np.random.default_rng(keyed_seed(seed, "split", int(label)))
        chosen.append(random.permutation(members)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def held_out(count: int, fraction: float) -> int:
    """Of so many images of a class, how many are split off."""
    return min(max(1, round(fraction * count)), count - 1)


def drawn_labels(fraction: float, rows: int, labelled: int) -> int:
    """How many labels `draw_labels` draws where so many of the rows have one."""
    return min(round(fraction * rows), labelled)


def draw_labels(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    draw: int,
    setting: str = "finetune.label_fraction",
) -> np.ndarray:
    """The rows whose labels may be used: one draw of the small labelled set.

    ``round(fraction · N)`` of them, N being all rows, labelled or not; spread over the classes as
    the labels are, at least one each, at most all there are.

    Args:
        labels: Class of each row, -1 for none; (N,) integers.
        fraction: Share of all rows, e.g. 0.01.
        seed: Seed.
        draw: Number of the draw; each is independent of the others.
        setting: Where the user set `fraction`, for the error.

    Returns:
        Sorted positions, int64.

    Raises:
        DataError: That is fewer labels than classes, or there is no label at all.
    """
    known, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(known):
        raise DataError("none of the training images has a label; label some of them.")
    wanted = drawn_labels(fraction, len(labels), int(counts.sum()))
    if wanted < len(known):
        raise DataError(
            f"{setting} {fraction:g} of {len(labels)} images is {wanted} labels for "
            f"{len(known)} classes; raise {setting} to at least "
            f"{smallest_fraction(len(known), len(labels)):g}."
        )
    chosen = []
    for label, share in zip(known, _shares(counts, wanted), strict=True):
        random = np.random.default_rng(keyed_seed(seed, "labels", draw, int(label)))
        chosen.append(random.permutation(np.flatnonzero(labels == label))[:share])
    return np.sort(np.concatenate(chosen))


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` spread in proportion to `counts` by largest remainder, each share in [1, count]."""
    ideal = counts * (total / counts.sum())
    shares = np.clip(np.floor(ideal).astype(np.int64), 1, counts)
    while shares.sum() != total:
        # A class that got its one image for free is over its ideal share, so others give way.
        step = 1 if shares.sum() < total else -1
        open_to_change = shares < counts if step > 0 else shares > 1
        lack = np.where(open_to_change, (ideal - shares) * step, -np.inf)
        shares[lack.argmax()] += step
    return shares


def smallest_fraction(labels: int, rows: int, digits: int = 4) -> float:
    """The smallest fraction of the rows, of so many significant digits, that is so many labels."""
    scale = 10.0 ** (np.floor(np.log10(labels / rows)) + 1 - digits)
    return float(f"{np.ceil(labels / rows / scale) * scale:.10g}")
