"""What the report shows: examples, neighbours, mistakes, facts about the data, training curves."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store.packed_store import PackedStore, evenly_spread, read_test_sources
from data.store.quarantine import kind_of
from models.encoders.images.encoder import Encoder
from tasks.evaluation import metrics as evaluation_metrics
from tasks.evaluation.test_set import TestSet, encode
from tasks.reporting.method_pictures import read_rows
from tasks.reporting.thumbnails import data_uri
from tasks.reporting.umap import place_in_plane
from tasks.settings.schema import EvaluateParams

# Sizes of the exhibits: what a person looks at, and what keeps the page under a few megabytes.
EXAMPLES, SHOWN_CLASSES, QUERIES, NEAREST, MISTAKES, PAIRS, REASONS = 10, 40, 10, 8, 24, 8, 8
# Training images among which neighbours are looked for: enough to find close ones.
BANK = 5_000


@dataclass(frozen=True)
class Findings:
    """What `evaluate` knows when the numbers are done.

    Attributes:
        learned: The content of learners.json.
        pretraining: The settings that the encoder was pretrained with.
        encoder: The pretrained one.
        predicted: Class numbers (N,) of each arm and draw.
        shown: Probabilities (N, K) of the shown model.
    """

    store: PackedStore
    learned: dict[str, Any]
    pretraining: dict[str, Any]
    encoder: Encoder
    test: TestSet
    predicted: dict[tuple[str, int], NDArray[np.int64]]
    shown: NDArray[np.float32]
    calibration: evaluation_metrics.Calibration
    metrics: dict[str, Any]


def collect(
    found: Findings, params: EvaluateParams, artifacts: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Gather the content of report.json, and a `data:` URI for each image id that it shows."""
    confusion = evaluation_metrics.confusion_matrix(
        found.test.labels, found.shown.argmax(1), len(found.store.classes)
    )
    made = read_rows(artifacts / "pretrain" / "pictures.npz")
    content = {
        "version": 1,
        "metrics": found.metrics,
        "draws": _draws(found),
        "classes": _classes(found, confusion),
        "confusion": confusion.tolist(),
        "confused": _confused(confusion, found.store.classes),
        "reliability": {
            "confidence": found.calibration.confidence.tolist(),
            "accuracy": found.calibration.accuracy.tolist(),
            "count": found.calibration.count.tolist(),
        },
        "data": _data(found, artifacts / "prepare" / "test_sources.parquet"),
        "samples": _samples(found),
        "method_pictures": [
            {"caption": caption, "ids": [_made_id(number, i) for i in range(len(row))]}
            for number, (caption, row) in enumerate(made.items())
        ],
        "pretraining": _pretraining(artifacts / "pretrain" / "history.csv"),
        "finetuning": _finetuning(artifacts / "finetune" / "history.csv"),
        "map": _map(found, params.embedding_points),
        "neighbours": _neighbours(found),
        "mistakes": _mistakes(found),
        "setup": _setup(found, params),
    }
    pictures = {
        _made_id(number, i): data_uri(image)
        for number, row in enumerate(made.values())
        for i, image in enumerate(row)
    }
    return content, pictures | _pictures(found.store, content)


def _made_id(row: int, column: int) -> str:
    """Of a picture that the method made, as against the ids of the store's images."""
    return f"made/{row}/{column}"


def _draws(found: Findings) -> list[dict[str, Any]]:
    truth = found.test.labels
    return [
        {
            "draw": fit["draw"],
            "pretrained": evaluation_metrics.accuracy(
                truth, found.predicted["pretrained", fit["draw"]]
            ),
            "scratch": evaluation_metrics.accuracy(truth, found.predicted["scratch", fit["draw"]]),
        }
        for fit in found.learned["arms"]["pretrained"]
    ]


def _classes(found: Findings, confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    scores = evaluation_metrics.class_scores(confusion)
    columns = {
        "name": found.store.classes,
        "precision": scores.precision.tolist(),
        "recall": scores.recall.tolist(),
        "f1": scores.f1.tolist(),
        "support": scores.support.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _confused(confusion: NDArray[np.int64], classes: list[str]) -> list[dict[str, Any]]:
    """The pairs of classes most often mixed up, as counts and as shares of the actual class."""
    wrong = confusion - np.diag(np.diagonal(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    return [
        {
            "actual": classes[a],
            "predicted": classes[p],
            "count": int(wrong[a, p]),
            "share": float(wrong[a, p] / confusion[a].sum()),
        }
        for a, p in pairs
        if wrong[a, p]
    ]


def _data(found: Findings, test_sources: Path) -> dict[str, Any]:
    store = found.store
    left_out = store.index[store.index["reason"].notna()]
    of_test = read_test_sources(test_sources).set_index("id")["source"]
    sources = left_out["source"].fillna(left_out["id"].map(of_test))
    counted: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for source, reason in zip(sources, left_out["reason"], strict=True):
        kind = kind_of(reason)
        counted[kind] += 1
        examples.setdefault(kind, source)
    return {
        "train": len(store.rows("train")),
        "test": len(found.test.rows),
        "size": store.manifest["size"],
        "channels": store.manifest["channels"],
        "left_out": len(left_out),
        "quarantined": store.manifest["counts"]["quarantined"],
        "passed_over": store.manifest["passed_over"],
        "reasons": [
            {"reason": kind, "count": count, "example": examples[kind]}
            for kind, count in counted.most_common(REASONS)
        ],
    }


def _samples(found: Findings) -> list[dict[str, Any]]:
    """The first labelled images of each class."""
    store = found.store
    rows = np.array(found.learned["arms"]["pretrained"][0]["rows"])
    labels = store.labels(rows)
    ids = store.index["id"].to_numpy()
    return [
        {"name": name, "ids": ids[rows[labels == number][:EXAMPLES]].tolist()}
        for number, name in enumerate(store.classes[:SHOWN_CLASSES])
    ]


def _map(found: Findings, points: int) -> dict[str, Any]:
    """Places in the plane of test images, evenly spread over the test set."""
    some = evenly_spread(np.arange(len(found.test.rows)), points)
    place = place_in_plane(encode(found.encoder, found.store, found.test.rows[some])).numpy()
    return {
        "ids": [found.test.ids[i] for i in some],
        "x": [round(float(x), 3) for x in place[:, 0]],
        "y": [round(float(y), 3) for y in place[:, 1]],
        "label": found.test.labels[some].tolist(),
    }


def _neighbours(found: Findings) -> list[dict[str, Any]]:
    """For one test image of each class, the nearest training images that were not labelled."""
    store, classes = found.store, found.store.classes
    train = np.setdiff1d(store.rows("train"), found.learned["arms"]["pretrained"][0]["rows"])
    if not len(train):
        return []
    train = evenly_spread(train, BANK)
    present = [int(c) for c in np.unique(found.test.labels)]
    queries = [int(np.argmax(found.test.labels == c)) for c in present[:QUERIES]]
    bank = encode(found.encoder, store, train)
    asked = encode(found.encoder, store, found.test.rows[queries])
    cosine, nearest = evaluation_metrics.nearest_rows(bank, asked, NEAREST)
    ids, known = store.index["id"].to_numpy(), store.labels(train)
    return [
        {
            "id": found.test.ids[query],
            "name": classes[found.test.labels[query]],
            "nearest": [
                {
                    "id": ids[train[j]],
                    "name": classes[known[j]] if known[j] >= 0 else None,
                    "cosine": float(c),
                }
                for c, j in zip(cosine[i].tolist(), nearest[i].tolist(), strict=True)
            ],
        }
        for i, query in enumerate(queries)
    ]


def _mistakes(found: Findings) -> list[dict[str, Any]]:
    predicted, confidence = found.shown.argmax(1), found.shown.max(1)
    wrong = np.flatnonzero(predicted != found.test.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    classes = found.store.classes
    return [
        {
            "id": found.test.ids[i],
            "actual": classes[found.test.labels[i]],
            "predicted": classes[predicted[i]],
            "confidence": float(confidence[i]),
        }
        for i in worst
    ]


def _pretraining(path: Path) -> dict[str, list[float | None]] | None:
    """Columns of the history; a value that was not recorded at an epoch is null."""
    rows = _read_csv(path)
    if not rows:
        return None
    return {column: [_number(row[column]) for row in rows] for column in rows[0]}


def _finetuning(path: Path) -> dict[str, Any] | None:
    """Steps and losses of each fit; nothing where a learner has no steps."""
    fits: dict[tuple[str, int], dict[str, Any]] = {}
    for row in _read_csv(path):
        key = (row["arm"], int(row["draw"]))
        fit = fits.setdefault(key, {"arm": key[0], "draw": key[1], "step": [], "loss": []})
        fit["step"].append(int(row["step"]))
        fit["loss"].append(_number(row["loss"]))
    curves = [fit for fit in fits.values() if len(fit["step"]) > 1]
    return {"fits": curves} if curves else None


def _setup(found: Findings, params: EvaluateParams) -> dict[str, Any]:
    rows = [
        ("Encoder", _spelled(found.learned["encoder"])),
        *(
            (f"Pretraining {name.replace('_', ' ')}", _spelled(value))
            for name, value in found.pretraining.items()
        ),
        ("Learner", _spelled(found.learned["learner"])),
        ("Its augmentation", _spelled(found.learned["augmentation"])),
        ("What differs from scratch", _differences(found.learned) or "nothing"),
        ("Label fraction", f"{found.learned['label_fraction']:g}"),
        ("Draws", str(len(found.learned["arms"]["pretrained"]))),
        ("Evaluation", _spelled(params.model_dump(mode="json"))),
        ("Packed store", found.store.manifest["digest"]),
    ]
    return {"neighbours": params.neighbours, "rows": rows}


def _differences(learned: dict[str, Any]) -> str:
    """The settings of the control that are not the other arm's."""
    return ", ".join(
        f"{group}.{key}={_bracketed(value)}"
        for group in ("learner", "augmentation")
        for key, value in learned["control"][group].items()
        if value != learned[group][key]
    )


def _pictures(store: PackedStore, content: dict[str, Any]) -> dict[str, str]:
    """A `data:` URI for every image id that the content shows as a picture."""
    wanted = {i for sample in content["samples"] for i in sample["ids"]}
    wanted |= {row["id"] for row in content["neighbours"]} | {m["id"] for m in content["mistakes"]}
    wanted |= {near["id"] for row in content["neighbours"] for near in row["nearest"]}
    # Rows that have pixels only: a quarantined file may bear any name.
    ids = store.index["id"].iloc[: len(store)]
    rows = np.flatnonzero(ids.isin(wanted))
    pixels = store.gather(rows)
    return {ids.iloc[r]: data_uri(image) for r, image in zip(rows, pixels, strict=True)}


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    """A finite number, or null: JSON knows no NaN."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _spelled(value: Any) -> str:
    """Settings as a person reads them: key=value, nested ones in brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{k}={_bracketed(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_bracketed(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bracketed(value: Any) -> str:
    return f"({_spelled(value)})" if isinstance(value, dict | list | tuple) else _spelled(value)
