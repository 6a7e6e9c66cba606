"""Stage `evaluate`: the test set, touched once, for every arm and draw; metrics, plots, report.

This is the only place that reads the test labels. The model that is shown (and registered) is the
pretrained one of draw 0, which was decided before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from data.store.packed_store import PackedStore, read_test_labels
from models.encoders.feature_metrics import knn_accuracy
from models.encoders.features import extract_features
from models.encoders.images.encoder import Encoder, build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import EncoderParams
from models.encoders.weights import load_weights
from models.learners import (
    LearnerParams,
    LinearProbeParams,
    build_classifier,
    fit_classifier,
)
from tasks.errors import TaskError
from tasks.evaluation import confidence_intervals
from tasks.evaluation import metrics as evaluation_metrics
from tasks.evaluation.confidence_intervals import Measured
from tasks.evaluation.result_files import DIGITS, rounded, write_csv, write_json
from tasks.evaluation.test_set import TestSet, chunks, encode
from tasks.layout import ARTIFACTS
from tasks.reporting.content import Findings, collect
from tasks.reporting.report import render
from tasks.settings.schema import EvaluateParams
from tasks.stages.context import stage

Progress = Callable[[str, int, int], None]


def evaluate(
    params: EvaluateParams, artifacts: Path, out: Path, progress: Progress
) -> dict[str, Any]:
    """Judges all classifiers on the test set and writes what was found.

    Args:
        params: The stage's settings.
        artifacts: Folder with the outputs of prepare, pretrain and finetune.
        out: An existing folder for metrics.json, scores.json, predictions.parquet, plots/ and the
            report.
        progress: Called with what is being done, how much is done and of how much.

    Returns:
        The content of metrics.json.

    Raises:
        TaskError: An input is missing or inputs do not belong together.
    """
    torch.set_num_threads(params.threads)
    store = PackedStore.open(artifacts / "prepare" / "store")
    learned = _read_json(artifacts / "finetune" / "learners.json")
    pretraining = _read_json(artifacts / "pretrain" / "encoder.json")["pretraining"]
    test = _read_test_set(store, artifacts / "prepare" / "test_labels.parquet")
    encoder = _build_encoder(learned)
    load_weights(encoder, _present(artifacts / "pretrain" / "encoder.safetensors"))

    predicted, shown = _predict_all(learned, store, test, artifacts / "finetune", progress)
    frozen = _judge_encoder(params, encoder, learned, store, test, progress)
    calibration = evaluation_metrics.calibration(shown, test.labels, params.bins)
    metrics = _metrics(learned, test, predicted, calibration) | frozen
    metrics["abstention"] = _abstention(learned["abstention"], shown, test)

    _write_predictions(out / "predictions.parquet", test, shown, predicted)
    _write_plots(out / "plots", store.classes, test, predicted, calibration)
    write_json(out / "metrics.json", metrics)
    write_json(out / "scores.json", _scores(metrics))
    progress("report", 0, 1)
    findings = Findings(
        store, learned, pretraining, encoder, test, predicted, shown, calibration, metrics
    )
    content, pictures = collect(findings, params, artifacts)
    content = rounded(content)
    write_json(out / "report.json", content)
    (out / "report.html").write_text(render(content, pictures), encoding="utf-8")
    progress("report", 1, 1)
    return metrics


def _predict_all(
    learned: dict[str, Any],
    store: PackedStore,
    test: TestSet,
    folder: Path,
    progress: Progress,
) -> tuple[dict[tuple[str, int], NDArray[np.int64]], NDArray[np.float32]]:
    """Predicted classes (N,) of each arm and draw; probabilities (N, K) of the shown model."""
    shapes = {
        arm: build_classifier(
            _learner(learned, arm), _build_encoder(learned), len(learned["classes"])
        )
        for arm in learned["arms"]
    }
    fits = [(arm, fit) for arm, draws in learned["arms"].items() for fit in draws]
    predicted, shown = {}, None
    for done, (arm, fit) in enumerate(fits):
        progress(f"predicting: {arm}, draw {fit['draw'] + 1}", done, len(fits))
        classifier = shapes[arm]
        load_weights(classifier, _present(folder / fit["weights"]))
        parts = [
            classifier.predict_proba(torch.from_numpy(store.gather(rows))).numpy()
            for rows in chunks(store, test.rows)
        ]
        probabilities = np.concatenate(parts)
        predicted[arm, fit["draw"]] = probabilities.argmax(1)
        if (arm, fit["draw"]) == ("pretrained", 0):
            shown = probabilities
    if shown is None:
        raise TaskError("finetune left no pretrained draw 0; run `dvc repro --force finetune`.")
    return predicted, shown


def _judge_encoder(
    params: EvaluateParams,
    encoder: Encoder,
    learned: dict[str, Any],
    store: PackedStore,
    test: TestSet,
    progress: Progress,
) -> dict[str, float]:
    """kNN and linear-probe accuracy of the frozen encoder, with the labels of draw 0."""
    progress("frozen encoder", 0, 1)
    rows = np.array(learned["arms"]["pretrained"][0]["rows"], dtype=np.int64)
    images, labels = torch.from_numpy(store.gather(rows)), torch.from_numpy(store.labels(rows))
    features = encode(encoder, store, test.rows)
    truth = torch.from_numpy(test.labels)
    bank = extract_features(encoder, images)
    classifier = fit_classifier(
        _probe(_learner(learned, "pretrained")),
        encoder,
        images,
        labels,
        len(store.classes),
        augment=lambda part, _: to_float(part),
        seed=0,
    )
    linear = [
        classifier.predict_proba(torch.from_numpy(store.gather(part))).argmax(1).numpy()
        for part in chunks(store, test.rows)
    ]
    return {
        "knn": round(knn_accuracy(bank, labels, features, truth, params.neighbours), DIGITS),
        "linear": round(evaluation_metrics.accuracy(test.labels, np.concatenate(linear)), DIGITS),
    }


def _metrics(
    learned: dict[str, Any],
    test: TestSet,
    predicted: dict[tuple[str, int], NDArray[np.int64]],
    calibration: evaluation_metrics.Calibration,
) -> dict[str, Any]:
    """All of metrics.json but the frozen encoder's numbers."""
    arms = {
        arm: Measured(np.stack([predicted[arm, fit["draw"]] == test.labels for fit in fits]))
        for arm, fits in learned["arms"].items()
    }
    classes = learned["classes"]
    confusion = evaluation_metrics.confusion_matrix(
        test.labels, predicted["pretrained", 0], len(classes)
    )
    scores = evaluation_metrics.class_scores(confusion)
    # Draw k of both arms has the same labels and the same seed.
    gain = confidence_intervals.paired_gain(arms["pretrained"], arms["scratch"], same_draws=True)
    metrics = {
        "label_fraction": learned["label_fraction"],
        "labels": learned["labels"],
        "label_overlap": learned["label_overlap"],
        **{
            arm: {"accuracy": asdict(confidence_intervals.accuracy(right))}
            for arm, right in arms.items()
        },
        "gain": asdict(gain),
        "accuracy": evaluation_metrics.accuracy(test.labels, predicted["pretrained", 0]),
        "balanced_accuracy": evaluation_metrics.balanced_accuracy(scores),
        "macro_f1": evaluation_metrics.macro_f1(scores),
        "ece": calibration.ece,
        "recall": dict(zip(classes, scores.recall.tolist(), strict=True)),
        "test_images": len(test.rows),
        "test_digest": test.digest,
    }
    return rounded(metrics)


def _abstention(
    found: dict[str, Any] | None, shown: NDArray[np.float32], test: TestSet
) -> dict[str, Any] | None:
    """What finetune found within its labels, and how well it holds; null if it never abstains."""
    if found is None:
        return None
    kept = evaluation_metrics.answers(shown, test.labels, found["threshold"])
    return rounded({**found, "answered": kept.coverage, "accuracy": kept.accuracy})


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    """What one run is told from another by, in names so short that they stand in one line."""
    gain = metrics["gain"]
    return {
        **{arm: metrics[arm]["accuracy"]["mean"] for arm in ("pretrained", "scratch")},
        **{"gain": gain["mean"], "gain_low": gain["low"], "gain_high": gain["high"]},
        **{name: metrics[name] for name in ("labels", "knn", "linear")},
    }


def _read_test_set(store: PackedStore, path: Path) -> TestSet:
    table = read_test_labels(_present(path))
    rows = store.rows("test")
    ids = store.index["id"].to_numpy()[rows].tolist()
    if ids != table["id"].tolist():
        raise TaskError(
            f"{path} does not belong to the store beside it; run `dvc repro --force prepare`."
        )
    return TestSet.of(store, rows, table["label"].to_numpy(dtype=np.int64, copy=True))


def _build_encoder(learned: dict[str, Any]) -> Encoder:
    shape = {name: learned[name] for name in ("channels", "size", "mean", "std")}
    # The seed is of no account, the weights are loaded.
    return build_encoder(EncoderParams(**learned["encoder"]), **shape, seed=0)


def _learner(learned: dict[str, Any], arm: str) -> LearnerParams:
    described = learned if arm == "pretrained" else learned["control"]
    return TypeAdapter(LearnerParams).validate_python(described["learner"])


def _probe(learner: LearnerParams) -> LinearProbeParams:
    """The learner's own linear probe, so that nothing about it is chosen here."""
    if isinstance(learner, LinearProbeParams):
        return learner
    return LinearProbeParams(readout=learner.readout, penalties=(learner.head_penalty,))


def _write_predictions(
    path: Path,
    test: TestSet,
    shown: NDArray[np.float32],
    predicted: dict[tuple[str, int], NDArray[np.int64]],
) -> None:
    """A row an image: id, label, predicted, prob_<k> of the shown model, correct_<arm>_<draw>."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": test.ids,
        "label": test.labels,
        "predicted": predicted["pretrained", 0],
        **{f"prob_{k}": shown[:, k] for k in range(shown.shape[1])},
        **{f"correct_{arm}_{n}": p == test.labels for (arm, n), p in predicted.items()},
    }
    pq.write_table(pa.table(columns), path)


def _write_plots(
    folder: Path,
    classes: Sequence[str],
    test: TestSet,
    predicted: dict[tuple[str, int], NDArray[np.int64]],
    calibration: evaluation_metrics.Calibration,
) -> None:
    """The tables behind `dvc plots`."""
    folder.mkdir()
    pairs = zip(test.labels, predicted["pretrained", 0], strict=True)
    write_csv(
        folder / "confusion.csv",
        ("actual", "predicted"),
        ((classes[a], classes[p]) for a, p in pairs),
    )
    bins = zip(calibration.confidence, calibration.accuracy, calibration.count, strict=True)
    write_csv(
        folder / "reliability.csv",
        ("confidence", "accuracy", "count"),
        ((round(c, DIGITS), round(a, DIGITS), n) for c, a, n in bins),
    )
    write_csv(
        folder / "accuracy.csv",
        ("arm", "draw", "accuracy"),
        (
            (arm, draw, round(evaluation_metrics.accuracy(test.labels, p), DIGITS))
            for (arm, draw), p in predicted.items()
        ),
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(_present(path).read_text(encoding="utf-8"))


def _present(path: Path) -> Path:
    if not path.is_file():
        raise TaskError(f"{path} is missing; run `dvc repro`, which makes what evaluate needs.")
    return path


if __name__ == "__main__":
    with stage("evaluate") as run:
        found = evaluate(run.params.evaluate, ARTIFACTS, run.out, run.progress)
        answers = {
            f"abstention/{name}": value
            for name in ("answered", "accuracy")
            if (value := (found["abstention"] or {}).get(name)) is not None
        }
        numbers = {
            "pretrained/accuracy": found["pretrained"]["accuracy"]["mean"],
            "scratch/accuracy": found["scratch"]["accuracy"]["mean"],
            "gain": found["gain"]["mean"],
            **answers,
            **{k: found[k] for k in ("balanced_accuracy", "macro_f1", "ece", "knn", "linear")},
        }
        run.journal.metrics(numbers, step=0)
