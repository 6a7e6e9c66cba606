"""The gate: a challenger becomes champion only if it is better beyond noise, and safely so.

Both are compared on the very same test images, image by image: that they are correlated makes the
comparison far sharper than that of two accuracies with their own intervals.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks import registry, tracking
from tasks.errors import TaskError
from tasks.params import GateParams, load_params

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERDICTS = Path(".instar") / "verdicts"
RESAMPLES = 10_000

# Runs by itself: a champion brings its own code, which must not meet this checkout's.
_SCORE = """
import sys, mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(numpy.load(sys.argv[2]))[["label"]].to_json(sys.argv[3])
"""


@dataclass(frozen=True)
class Gain:
    """How much more often the challenger is right: mean and 95% interval, fractions of 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why.

    Attributes:
        name: The registered model.
        version: The challenger.
        champion: The version it was measured against; None if there was none.
        outcome: 'promoted', 'refused' or 'same model'.
        reasons: Every rule and what it found, in plain words.
        gain: Over the champion; None without one.
        class_change: Change of each class's recall against the champion.
        path: The file that holds this.
    """

    name: str
    version: str
    champion: str | None
    outcome: Literal["promoted", "refused", "same model"]
    reasons: list[str]
    gain: Gain | None = None
    class_change: dict[str, float] = field(default_factory=dict)
    path: str = ""

    @property
    def promoted(self) -> bool:
        """Whether the challenger is now champion."""
        return self.outcome == "promoted"


@dataclass(frozen=True)
class Finding:
    """One rule: whether it holds, and what was found."""

    holds: bool
    words: str


def judge(root: str | Path, version: str, tracking_uri: str | None = None) -> Verdict:
    """Judges a version against the champion and moves it if it passes.

    Args:
        root: The checkout: its rules (params.yaml), and its test set if the champion was measured
            on another one.
        version: The challenger.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Returns:
        The verdict, which is also a file, tags of the version and, if it moved, in the promotion
        log.

    Raises:
        TaskError: An evaluation is missing, or MLflow does not answer.
    """
    root, version = Path(root), str(version)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    with registry.explained(uri) as client:
        challenger = client.get_model_version(name, version)
        held = registry.require_known_champion(client, name, root)
        if held == version:
            # Its promotion may have broken off before all followed the alias.
            registry.settle(client, name)
        champion = client.get_model_version(name, held) if held else None
        verdict = _weigh(root, client, uri, params.gate, challenger, champion)
        verdict = _write(root, verdict)
        _tag(client, verdict)
    if verdict.promoted:
        who = f"gate, run by {registry.person(root)}"
        evidence = {"verdict": verdict.path, "gain": verdict.gain and vars(verdict.gain)}
        why = "; ".join(verdict.reasons)
        registry.move(name, version, "champion", who, why, evidence, root, tracking_uri)
    return verdict


def paired_gain(
    challenger: NDArray[np.bool_],
    champion: NDArray[np.bool_],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Gain:
    """Paired percentile bootstrap of the difference of two accuracies (Efron, 1979).

    Args:
        challenger: (N,) whether the challenger is right on each test image.
        champion: (N,) the same for the champion, in the same order.
        seed: Of the resampling.
        resamples: How many.
    """
    difference = challenger.astype(np.int64) - champion.astype(np.int64)
    n = len(difference)
    # A resampled mean needs only how many of each of -1, 0 and 1 were drawn: a multinomial.
    shares = np.bincount(difference + 1, minlength=3) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    means = (drawn[:, 2] - drawn[:, 0]) / n
    low, high = np.quantile(means, (0.025, 0.975))
    return Gain(float(difference.mean()), float(low), float(high))


def recalls(labels: NDArray[Any], right: NDArray[np.bool_]) -> dict[str, float]:
    """Share of each class's test images that are recognised."""
    return {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}


def _weigh(
    root: Path,
    client: MlflowClient,
    uri: str,
    rules: GateParams,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Verdict:
    name, version = challenger.name, str(challenger.version)
    against = str(champion.version) if champion else None
    if champion and champion.tags.get("weights") == challenger.tags.get("weights"):
        same = f"version {version} has the very weights of the champion, version {against}"
        return Verdict(name, version, against, "same model", [same])
    predictions, metrics = _evaluation(client, challenger)
    labels = predictions["label"].to_numpy()
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    found = [_beats_scratch(metrics)] if rules.require_gain else []
    gain, change = None, {}
    if champion is None:
        found.append(_no_dead_class(recalls(labels, right)))
    else:
        theirs = _champion_right(root, client, uri, challenger, champion, predictions)
        gain = paired_gain(right, theirs)
        ours, before = recalls(labels, right), recalls(labels, theirs)
        change = {label: ours[label] - before[label] for label in ours}
        found += [_beyond_noise(gain, str(against)), _no_class_drop(change, rules.max_class_drop)]
    outcome = "promoted" if all(finding.holds for finding in found) else "refused"
    words = [finding.words for finding in found]
    return Verdict(name, version, against, outcome, words, gain, change)


def _beyond_noise(gain: Gain, champion: str) -> Finding:
    interval = f"{gain.mean:+.2%} ({gain.low:+.2%} to {gain.high:+.2%})"
    if gain.low > 0:
        return Finding(True, f"better than champion {champion} beyond noise: {interval}")
    return Finding(False, f"not better than champion {champion} beyond noise: {interval}")


def _no_class_drop(change: dict[str, float], most: float) -> Finding:
    fallen = {label: drop for label, drop in change.items() if -drop > most}
    if not fallen:
        return Finding(True, f"no class lost more than {most:.0%} of recall")
    listed = ", ".join(f"{label} ({drop:+.1%})" for label, drop in fallen.items())
    return Finding(False, f"recall fell by more than {most:.0%} for: {listed}")


def _no_dead_class(found: dict[str, float]) -> Finding:
    dead = [label for label, recall in found.items() if recall == 0]
    if dead:
        return Finding(False, f"never recognises: {', '.join(dead)}")
    return Finding(True, "there is no champion yet, and every class is recognised at times")


def _beats_scratch(metrics: dict[str, Any]) -> Finding:
    gain = metrics["gain"]
    if gain["low"] is None:
        return Finding(
            False,
            "one label draw cannot tell whether it beats its from-scratch control: "
            "raise finetune.draws",
        )
    interval = f"{gain['mean']:+.2%} ({gain['low']:+.2%} to {gain['high']:+.2%})"
    if gain["low"] > 0:
        return Finding(True, f"beats its from-scratch control: {interval}")
    return Finding(False, f"does not beat its from-scratch control beyond noise: {interval}")


def _evaluation(client: MlflowClient, version: ModelVersion) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions on the test set and metrics, as `registry.register` kept them."""
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        folder = Path(client.download_artifacts(version.run_id, registry.EVALUATION, scratch))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return pd.read_parquet(folder / "predictions.parquet"), metrics


def _champion_right(
    root: Path,
    client: MlflowClient,
    uri: str,
    challenger: ModelVersion,
    champion: ModelVersion,
    predictions: pd.DataFrame,
) -> NDArray[np.bool_]:
    """Whether the champion is right on each of the challenger's test images, in their order."""
    if champion.tags.get("test_digest") == challenger.tags.get("test_digest"):
        theirs, _ = _evaluation(client, champion)
        theirs = theirs.set_index("id").loc[predictions["id"]]
        return (theirs["label"] == theirs["predicted"]).to_numpy()
    labels, classes = predictions["label"].to_numpy(), _classes(root)
    named = np.array([classes[label] for label in labels]) if labels.dtype.kind in "iu" else labels
    return _score(root, uri, champion, predictions["id"].tolist()) == named


def _score(root: Path, uri: str, champion: ModelVersion, ids: list[Any]) -> NDArray[Any]:
    """The champion's labels for images of the present store."""
    import pandas as pd

    from data.store import PackedStore

    store = PackedStore.open(root / "artifacts" / "prepare" / "store")
    places = pd.Index(store.index["id"]).get_indexer(ids)
    if (places < 0).any():
        raise TaskError(
            "the champion was measured on another test set, and the present store lacks the "
            "challenger's: check out the challenger's commit, `dvc pull`, and judge again."
        )
    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        images, labels = Path(scratch) / "images.npy", Path(scratch) / "labels.json"
        np.save(images, store.gather(places))
        model = f"models:/{champion.name}/{champion.version}"
        command = [sys.executable, "-I", "-c", _SCORE, model, str(images), str(labels)]
        done = subprocess.run(
            command, cwd=scratch, env=_environment(uri), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = tracking.shown((done.stderr.strip().splitlines() or ["no reason given"])[-1])
            raise TaskError(
                f"champion version {champion.version} cannot predict here ({last}): repair its "
                "environment, or archive it and judge again."
            )
        return pd.read_json(labels, dtype=False)["label"].to_numpy()


def _environment(uri: str) -> dict[str, str]:
    import os

    return {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


def _classes(root: Path) -> list[str]:
    manifest = root / "artifacts" / "prepare" / "store" / "manifest.json"
    classes: list[str] = json.loads(manifest.read_text(encoding="utf-8"))["classes"]
    return classes


def _write(root: Path, verdict: Verdict) -> Verdict:
    path = VERDICTS / f"{verdict.name}-v{verdict.version}.json"
    verdict = dataclasses.replace(verdict, path=str(path))
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    content = {**dataclasses.asdict(verdict), "promoted": verdict.promoted}
    (root / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return verdict


def _tag(client: MlflowClient, verdict: Verdict) -> None:
    tags = {"gate": verdict.outcome, "gate_reasons": "; ".join(verdict.reasons)}
    if verdict.champion:
        tags["gate_champion"] = verdict.champion
    if verdict.gain:
        tags |= {f"gate_gain_{part}": f"{value:.6f}" for part, value in vars(verdict.gain).items()}
    for key, value in tags.items():
        client.set_model_version_tag(verdict.name, verdict.version, key, value)
