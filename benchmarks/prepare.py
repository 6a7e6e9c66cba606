"""`prepare` on image files against a bare loop that only decodes and resizes them.

    python -m benchmarks.prepare [--images 1800] [--side 200] [--size 64]

JPEGs are made in a temporary folder; both read them from a warm disk cache, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data.packing.pack import pack
from data.sources.params import DataParams


def make_images(folder: Path, count: int, side: int) -> None:
    """JPEGs in ten class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        path = folder / f"class-{number % 10}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


def bare_loop(folder: Path, size: int) -> float:
    """Seconds to decode and resize every file, one after the other, keeping nothing."""
    started = time.perf_counter()
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return time.perf_counter() - started


def prepare(folder: Path, size: int, out: Path) -> float:
    """Seconds of the stage's work: read, check, hash, resize, pack, split."""
    started = time.perf_counter()
    pack(DataParams(source="folder", path=str(folder), size=size, channels=3), out)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1800)
    parser.add_argument("--side", type=int, default=200, help="of the files, pixels")
    parser.add_argument("--size", type=int, default=64, help="to resize to, pixels")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", arguments.images, arguments.side)
        turns = [
            (
                bare_loop(folder / "images", arguments.size),
                prepare(folder / "images", arguments.size, folder / "out"),
            )
            for _ in range(arguments.turns)
        ]
    bare, ours = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratio = statistics.median(b / o for b, o in turns)
    print("\n| reading files | images/s | against the bare loop |\n|---|---|---|")
    print(f"| bare decode + resize, one thread | {arguments.images / bare:,.0f} | 1.00 |")
    print(f"| instar prepare | {arguments.images / ours:,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
