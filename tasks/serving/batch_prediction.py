"""Labels for images that nobody has labelled, by a registered version, into one table.

Works from any folder: it needs MLflow's address and the images, no checkout. Batches that are done
are kept beside the output, so that a prediction that was killed goes on after them and ends in the
same bytes. What a version holds is data; its code is that which is installed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.serving.label_file import open_writer
from tasks.system.atomic_files import keep, kept
from tasks.system.scratch import claimed, discard

if TYPE_CHECKING:
    import pyarrow as pa

    from data.sources.inference_inputs import Incoming
    from tasks.serving.model import ServedModel

Progress = Callable[[str, int, int], None]

# Of the rows: parts in another format are of no use.
FORMAT = 1


@dataclass(frozen=True)
class Prediction:
    """What a prediction found, in counts of images.

    Attributes:
        model: The version, as `NAME@3`.
        resumed: Those that a run before had done.
        unreadable: Rows with a reason and without a label.
        reasons: Kinds of those reasons and how often each occurs.
        passed_over: Files that are not images, by what they are; they have no row.
    """

    model: str
    output: str
    images: int
    labelled: int
    abstained: int
    unreadable: int
    reasons: dict[str, int]
    resumed: int
    passed_over: dict[str, int]
    labels: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict(
    model: ServedModel,
    version: str,
    key: str,
    place: str,
    output: Path,
    batch_size: int,
    probabilities: bool,
    progress: Progress,
) -> Prediction:
    """Classifies all images of a place, batch by batch.

    Args:
        model: What classifies.
        version: Its name, as `NAME@3`.
        key: Changes with the model.
        place: A folder, .tar, .zip or s3:// address.
        output: The file, .parquet or .csv; replaced at the very end.
        batch_size: Images in memory at once.
        probabilities: Whether to add a column for each class.
        progress: Called with what is being done, how many images are done and of how many.

    Raises:
        DataError: The place cannot be read or has no image.
    """
    from data.sources.inference_inputs import Incoming

    progress("looking for images", 0, 1)
    with closing(Incoming(place)) as images:
        batches = range(0, images.total, batch_size)
        facts = [FORMAT, key, images.fingerprint, batch_size, probabilities]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        parts = output.parent / f".{output.name}.parts"
        # Two predictions into one file at once have a folder each.
        with claimed(parts / name) as scratch:
            done = _finished(scratch)
            resumed = sum(min(batch_size, images.total - start) for start in done)
            seen = resumed
            for start in batches:
                if start in done:
                    continue
                progress("classifying", seen, images.total)
                table = _classify(model, images, start, batch_size, probabilities)
                images.require_answers()
                done[start] = keep(scratch / f"{start:012d}.parquet", _encoded(table))
                seen += len(table)
            progress("classifying", images.total, images.total)
            whole = scratch / "whole"
            counts = _assemble(
                [done[start] for start in batches], whole, output.suffix.lower(), version
            )
            os.replace(whole, output)
            discard(scratch)
        _clear(parts)
        return Prediction(
            model=version,
            output=str(output),
            resumed=resumed,
            passed_over=dict(sorted(images.passed_over.items())),
            **counts,
        )


def _classify(
    model: ServedModel, images: Incoming, start: int, batch_size: int, probabilities: bool
) -> pa.Table:
    """A row an image, in their order; those that cannot be read have a reason and no more."""
    import numpy as np
    import pyarrow as pa

    from data.images.decoding import canvases
    from data.samples import id_of
    from data.sources.file_names import printable

    with warnings.catch_warnings():
        # Pillow warns of images that it finds large; the limit of `images.reading` refuses them.
        warnings.simplefilter("ignore")
        found = list(
            canvases(images.samples(start, start + batch_size), model.size, model.channels)
        )
    pixels = [canvas.pixels for canvas in found if canvas.pixels is not None]
    readable = np.array([canvas.pixels is not None for canvas in found])
    shape = (len(pixels), model.size, model.size, model.channels)
    answers = _classify_in_parts(model, np.array(pixels, np.uint8).reshape(shape))
    names = [canvas.sample.source for canvas in found]
    columns: dict[str, Any] = {
        "id": pa.array(map(id_of, names), pa.string()),
        "path": pa.array(names, pa.string()),
    }
    for name, kind in _kinds(model, probabilities).items():
        spread = np.full(len(found), None, object)
        spread[readable] = answers[name]
        columns[name] = pa.array(spread, kind, from_pandas=False)
    reasons = [canvas.reason and printable(canvas.reason) for canvas in found]
    columns["reason"] = pa.array(reasons, pa.string())
    return pa.table(columns)


def _classify_in_parts(model: ServedModel, pixels: Any) -> dict[str, Any]:
    import numpy as np

    starts = range(0, max(1, len(pixels)), model.most)
    parts = [model.classify(pixels[start : start + model.most]) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _kinds(model: ServedModel, probabilities: bool) -> dict[str, pa.DataType]:
    import pyarrow as pa

    kinds = {"label": pa.string(), "guess": pa.string()}
    kinds |= {"confidence": pa.float32(), "abstained": pa.bool_()}
    if probabilities:
        kinds |= {f"prob_{name}": pa.float32() for name in model.classes}
    return kinds


def _finished(scratch: Path) -> dict[int, Path]:
    """Files of the batches that are done, by the position of their first image.

    One that was cut short is set aside in silence: it is made again.
    """
    found = kept(scratch / "*.parquet", lambda _: None)
    return {int(path.name.partition(".")[0]): path for path in found}


def _encoded(table: pa.Table) -> memoryview:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getbuffer()


def _assemble(parts: Sequence[Path], whole: Path, ending: str, version: str) -> dict[str, Any]:
    """Writes one file of all parts; gives the counts of its rows."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from data.store.quarantine import kind_of

    labels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    images = abstained = 0
    schema = pq.read_schema(parts[0]).with_metadata({"instar.model": version})
    with open_writer(whole, ending, schema) as writer:
        for path in parts:
            table = pq.read_table(path)
            writer.write_table(table.replace_schema_metadata({"instar.model": version}))
            images += len(table)
            abstained += pc.sum(table["abstained"]).as_py() or 0
            labels.update(table["label"].drop_null().to_pylist())
            reasons.update(map(kind_of, table["reason"].drop_null().to_pylist()))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    return {
        "images": images,
        "labelled": sum(labels.values()),
        "abstained": abstained,
        "unreadable": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "labels": dict(sorted(labels.items())),
    }


def _clear(parts: Path) -> None:
    """Remove what other predictions into the same file left, but for those that still go on."""
    # Not `iterdir`: another one that ends now may remove the folder.
    for name in sorted({path.name.partition(".")[0] for path in parts.glob("*")}):
        with claimed(parts / name) as scratch:
            discard(scratch)
    with contextlib.suppress(OSError):  # one of them goes on
        parts.rmdir()
