"""How often the drift test is wrong: false alarms where nothing changed, misses where it did.

    python -m benchmarks.drift [--sample N] [--trials N] [--new N] [--shifts N] [--deals N]

Reads what `prepare` and `pretrain` made. No drift: training images against other training images,
and against images of the test split, which the encoder never saw (no test label is read). Drift:
images of the test split, altered; a class that the training side lacks; another data set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

from data.images.reading import to_canvas
from data.store.packed_store import PackedStore
from models.encoders.images.encoder import Encoder, build_encoder
from models.encoders.params import EncoderParams
from models.encoders.weights import load_weights
from tasks.monitoring.drift import ALPHA, described
from tasks.monitoring.two_sample_test import PERMUTATIONS, Comparison, Sample, compare
from tasks.stages.parallel_fits import PRETRAINED, STORE

LIMITS = (0.05, ALPHA)
POOL = 5_000
Images = np.ndarray


def encoder_of(store: PackedStore) -> Encoder:
    described_as = json.loads((PRETRAINED / "encoder.json").read_text())
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    encoder = build_encoder(EncoderParams(**described_as["encoder"]), **shape)
    load_weights(encoder, PRETRAINED / "encoder.safetensors")
    return encoder


def drawn(sample: Sample, rows: np.ndarray) -> Sample:
    return Sample(sample.embedding[rows], {k: v[rows] for k, v in sample.pixels.items()})


def blurred(sigma: float) -> Callable[[Images], Images]:
    def blur(images: Images) -> Images:
        reach = int(3 * sigma) + 1
        bell = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
        bell = (bell / bell.sum()).view(1, 1, 1, -1)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        count, channels, height, width = x.shape
        x = x.reshape(-1, 1, height, width)
        x = F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), bell)
        x = F.conv2d(x, bell.transpose(2, 3)).reshape(count, channels, height, width)
        return x.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    return blur


def brighter(factor: float) -> Callable[[Images], Images]:
    return lambda images: np.clip(np.rint(images * factor), 0, 255).astype(np.uint8)


def noisy(deviation: float) -> Callable[[Images], Images]:
    random = np.random.default_rng(7)
    return lambda images: np.clip(
        np.rint(images + random.normal(0, 255 * deviation, images.shape)), 0, 255
    ).astype(np.uint8)


ALTERED = {
    "blur, sigma 0.4": blurred(0.4),
    "blur, sigma 0.7": blurred(0.7),
    "5% brighter": brighter(1.05),
    "20% brighter": brighter(1.2),
    "noise of 2%": noisy(0.02),
    "noise of 5%": noisy(0.05),
}


def shown(name: str, found: list[Comparison]) -> str:
    cells = []
    for alpha in LIMITS:
        alarms = sum(each.p <= alpha for each in found)
        low, high = stats.binomtest(alarms, len(found)).proportion_ci(method="exact")
        cells.append(f"{alarms / len(found):6.1%} ({low:.1%} to {high:.1%})")
    return f"| {name} | {len(found)} | {' | '.join(cells)} |"


def trials(
    old: Sample, new: Sample, sizes: tuple[int, int], count: int, deals: int
) -> list[Comparison]:
    """Each draws anew; where both are the same pool, without an image in common."""
    random, found = np.random.default_rng(1), []
    for seed in range(count):
        a = random.permutation(len(old.embedding))
        b = a[sizes[0] :] if new is old else random.permutation(len(new.embedding))
        found.append(compare(drawn(old, a[: sizes[0]]), drawn(new, b[: sizes[1]]), seed, deals))
    return found


def digits(size: int, channels: int) -> Images:
    from sklearn.datasets import load_digits

    images = (load_digits().images * 15).astype(np.uint8)
    return np.stack([to_canvas(image, size, channels) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=200, help="images of each side, no drift")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--new", type=int, default=200, help="new images, drift")
    parser.add_argument("--shifts", type=int, default=50, help="trials of each drift")
    parser.add_argument("--deals", type=int, default=PERMUTATIONS, help="permutations of a test")
    asked = parser.parse_args()
    store = PackedStore.open(STORE)
    encoder = encoder_of(store)
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(store.rows("train"))[:POOL])
    unseen = store.gather(np.sort(random.permutation(store.rows("test"))[:POOL]))
    known = described(store.gather(rows), encoder)
    fresh = described(unseen, encoder)

    print("| new images | trials |" + "".join(f" p ≤ {alpha:g} |" for alpha in LIMITS))
    print("|---|---|---|---|")
    both = (asked.sample, asked.sample)
    print(
        shown("training images", trials(known, known, both, asked.trials, asked.deals)), flush=True
    )
    print(shown("unseen images", trials(known, fresh, both, asked.trials, asked.deals)), flush=True)
    sizes = (asked.sample, asked.new)
    for name, alter in ALTERED.items():
        new = described(alter(unseen[:1000]), encoder)
        print(shown(name, trials(known, new, sizes, asked.shifts, asked.deals)), flush=True)
    labels = store.labels(rows)
    lacking = drawn(known, np.flatnonzero(labels != labels.max()))
    whole = described(store.gather(np.setdiff1d(store.rows("train"), rows)[::20]), encoder)
    print(
        shown("one new class among ten", trials(lacking, whole, sizes, asked.shifts, asked.deals)),
        flush=True,
    )
    other = described(digits(store.manifest["size"], store.manifest["channels"]), encoder)
    print(
        shown("handwritten digits", trials(known, other, sizes, asked.shifts, asked.deals)),
        flush=True,
    )


if __name__ == "__main__":
    main()
