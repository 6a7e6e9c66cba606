"""The gate: a challenger becomes champion only if it is better beyond noise, and safely so.

What is compared is what two ways of learning give, not two lucky models: all draws of labels of
both versions, on the very same test images, image by image. That the images are the same makes the
comparison far sharper than that of two accuracies with their own intervals. What a version's single
pretraining owes to chance is not seen: its draws share one encoder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tasks import draws, registry, tracking
from tasks.errors import TaskError
from tasks.intervals import Interval, Measured, paired_gain
from tasks.moves import mend, set_tags
from tasks.params import GateParams, load_params
from tasks.promotion_log import REJECTED
from tasks.standing import Place, place_of
from tasks.unattended import unattended

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERDICTS = Path(".instar") / "verdicts"
Outcome = Literal["promoted", "waiting", "refused", "same model", "overridden"]
# Of the gain, each in a tag of its own.
_PARTS = ("mean", "low", "high", "n")

# Runs by itself: a champion brings its own code, which must not meet this checkout's.
_SCORE = """
import sys, mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(numpy.load(sys.argv[2]))[["label"]].to_json(sys.argv[3])
"""


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why.

    Attributes:
        name: The registered model.
        version: The challenger.
        champion: The version it was measured against; None if there was none.
        outcome: 'promoted', 'waiting' (it passed, and a human decides), 'refused', 'same model' or
            'overridden' (a human promoted it, whatever the rules found).
        reasons: Every rule and what it found, in plain words behind `pass: ` or `FAIL: `.
        gain: Over the champion; None without one.
        class_change: Change of each class's recall against the champion.
        place: Where the version stands after this.
        path: The file that holds this.
        repeated: The reasons are those of before, as nothing changed for this version since.
    """

    name: str
    version: str
    champion: str | None
    outcome: Outcome
    reasons: list[str]
    gain: Interval | None = None
    class_change: dict[str, float] = field(default_factory=dict)
    place: Place = "challenger"
    path: str = ""
    repeated: bool = False

    @property
    def promoted(self) -> bool:
        """Whether the challenger is now champion."""
        return self.outcome == "promoted"


@dataclass(frozen=True)
class Finding:
    """One rule: whether it holds, and what was found."""

    holds: bool
    words: str

    def __str__(self) -> str:
        return f"{'pass' if self.holds else 'FAIL'}: {self.words}"


def judge(root: str | Path, version: str, tracking_uri: str | None = None) -> Verdict:
    """Judges a version against the champion and moves it if it passes.

    Args:
        root: The checkout: its rules (params.yaml), and its test set if the champion was measured
            on another one.
        version: The challenger.
        tracking_uri: MLflow; see `tracking.tracking_uri_of`.

    Returns:
        The verdict, which is also a file, tags of the version and, if it moved, in the promotion
        log; the one of before, nothing written, where all that it rests on is as it was.

    Raises:
        TaskError: An evaluation is missing, MLflow does not answer, or it lacks the champion that
            the promotion log knows.
    """
    root, version = Path(root), str(version)
    uri = tracking_uri or tracking.tracking_uri_of(root)
    params = load_params(root / "params.yaml")
    name = params.register_.name
    with registry.one_at_a_time(root, "the gate"), registry.explained(uri) as client:
        # First: what broke off may be the promotion of this very version.
        mend(client, name, root)
        challenger = client.get_model_version(name, version)
        held = registry.require_known_champion(client, name, root)
        champion = client.get_model_version(name, held) if held else None
        former = _former(root, challenger)
        if held == version and former and former.promoted:
            return dataclasses.replace(former, outcome="same model", repeated=True)
        verdict = weigh(root, client, uri, params.gate, challenger, champion)
        if verdict.promoted and params.gate.approval == "human":
            verdict = dataclasses.replace(verdict, outcome="waiting")
        place = "champion" if verdict.promoted else place_of(client, name, version)
        verdict = dataclasses.replace(verdict, place=place)
        if verdict == former and not verdict.promoted:
            return dataclasses.replace(verdict, repeated=True)
        write(root, verdict)
        if verdict.promoted:
            who = f"gate, run by {registry.person(root)}"
            why = "; ".join(verdict.reasons)
            # The tags with the move: what bears them counts as judged, and is not looked at again
            # by `instar sync`.
            registry.move(
                name, version, "champion", who, why, evidence_of(verdict), root, tracking_uri,
                tags=tags_of(verdict), over=held,
            )  # fmt: skip
        else:
            # Broken off amid the tags, it must not be read with the outcome of before.
            set_tags(client, name, version, {registry.GATE: ""})
            set_tags(client, name, version, tags_of(verdict))
    return verdict


def recorded(root: str | Path, version: ModelVersion) -> Verdict | None:
    """The version's last verdict: this checkout's file, else what its tags tell of it."""
    found = _former(Path(root), version)
    tags = version.tags
    if found is not None or tags.get(registry.GATE) not in get_args(Outcome):
        return found
    outcome = cast(Outcome, tags[registry.GATE])
    value = {part: _number(tags.get(f"gate_gain_{part}")) for part in _PARTS}
    gain = None
    if value["mean"] is not None:
        gain = Interval(value["mean"], value["low"], value["high"], int(value["n"] or 0))
    reasons = tags.get("gate_reasons", "").split("; ")
    name, number = version.name, str(version.version)
    path = str(_path(name, number))
    return Verdict(name, number, tags.get("gate_champion"), outcome, reasons, gain, path=path)


def evidence_of(verdict: Verdict) -> dict[str, Any]:
    """What a line of the promotion log says of it."""
    return {"verdict": verdict.path or None, "gain": verdict.gain and vars(verdict.gain)}


def recalls(labels: NDArray[Any], right: NDArray[np.bool_]) -> dict[str, float]:
    """Share of each class's test images that are recognised."""
    return {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}


def weigh(
    root: Path,
    client: MlflowClient,
    uri: str,
    rules: GateParams,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> Verdict:
    """What the rules say of a challenger against a champion; moves and writes nothing.

    Args:
        root: The checkout whose test set is shown to a champion that was measured on another.
        client: MLflow.
        uri: Its address.
        rules: The gate's.
        challenger: The version that wants to be champion.
        champion: The present one, if there is one.

    Raises:
        TaskError: An evaluation is missing.
    """
    name, version = challenger.name, str(challenger.version)
    against = str(champion.version) if champion else None
    # A version that was registered by hand has no weights' hash, and is nobody's twin.
    weights = challenger.tags.get("weights", "none")
    if champion and (version == against or champion.tags.get("weights") == weights):
        same = f"version {version} has the very weights of the champion, version {against}"
        if version == against:
            same = f"version {version} is the champion already"
        path = str(_path(name, version))
        return Verdict(name, version, against, "same model", [same], path=path)
    predictions, metrics = _evaluation(client, challenger)
    labels = predictions["label"].to_numpy()
    ours = recalls(labels, _registered_right(predictions))
    found = [_beats_scratch(metrics)] if rules.require_gain else []
    if REJECTED in challenger.tags:
        found.insert(0, Finding(False, f"rejected by a human: {challenger.tags[REJECTED]}"))
    gain, change = None, {}
    if champion is None:
        found.append(_no_dead_class(ours))
    else:
        theirs = _measure_champion(root, client, uri, challenger, champion, predictions)
        same_draws = theirs.draws is None and _same_draws(challenger, champion)
        gain = paired_gain(Measured(_all_right(predictions)), theirs, same_draws)
        before = recalls(labels, theirs.right[0])
        change = {label: ours[label] - before[label] for label in ours}
        found += [_beyond_noise(gain, str(against)), _no_class_drop(change, rules.max_class_drop)]
    outcome: Outcome = "promoted" if all(finding.holds for finding in found) else "refused"
    reasons, path = [*map(str, found)], str(_path(name, version))
    return Verdict(name, version, against, outcome, reasons, gain, change, path=path)


def _beyond_noise(gain: Interval, champion: str) -> Finding:
    if gain.low is None or gain.high is None:
        return Finding(
            False,
            f"one label draw cannot tell whether it is better than champion {champion}: raise "
            "finetune.draws, or archive the champion if that is the one with a single draw",
        )
    interval = _in_points(gain.mean, gain.low, gain.high)
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
    interval = _in_points(gain["mean"], gain["low"], gain["high"])
    interval = f"{interval} over {draws.repetitions(metrics)}"
    if gain["low"] > 0:
        return Finding(True, f"beats its from-scratch control: {interval}")
    return Finding(False, f"does not beat its from-scratch control beyond noise: {interval}")


def _in_points(mean: float, low: float, high: float) -> str:
    """A difference of accuracies: in points, since "2% better" could be meant of either."""
    return f"{100 * mean:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"


def _evaluation(client: MlflowClient, version: ModelVersion) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions on the test set and metrics, as `registry.register` kept them."""
    import pandas as pd

    if not version.run_id:
        raise TaskError(
            f"version {version.version} was registered by hand, so it has no evaluation to judge: "
            "`instar run` registers one that has."
        )
    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        folder = Path(client.download_artifacts(version.run_id, registry.EVALUATION, scratch))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return pd.read_parquet(folder / "predictions.parquet"), metrics


def _registered_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) whether the registered model, that of draw 0, is right on each test image."""
    return (predictions["label"] == predictions["predicted"]).to_numpy()


def _all_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """(D, N) whether the model of each draw is right on each test image."""
    prefix = "correct_pretrained_"
    columns = [str(name) for name in predictions.columns if str(name).startswith(prefix)]
    # In the order of the draws: draw 10 comes after draw 9.
    columns.sort(key=lambda name: int(name.removeprefix(prefix)))
    return predictions[columns].to_numpy().T


def _same_draws(challenger: ModelVersion, champion: ModelVersion) -> bool:
    """Whether both learned from the same labels of the same data, draw by draw."""
    ours, theirs = challenger.tags, champion.tags
    # A version of before they were noted has none.
    return "label_draws" in ours and all(
        ours.get(key) == theirs.get(key) for key in ("label_draws", "data_version")
    )


def _measure_champion(
    root: Path,
    client: MlflowClient,
    uri: str,
    challenger: ModelVersion,
    champion: ModelVersion,
    predictions: pd.DataFrame,
) -> Measured:
    """The champion on the challenger's test images, in their order.

    Of another test set only the registered model can be asked, that of draw 0; how far draws lie
    apart is then known from the test set on which all of them were measured.
    """
    theirs, _ = _evaluation(client, champion)
    if champion.tags.get("test_digest") == challenger.tags.get("test_digest"):
        return Measured(_all_right(theirs.set_index("id").loc[predictions["id"]]))
    labels, classes = predictions["label"].to_numpy(), _classes(root)
    named = np.array([classes[label] for label in labels]) if labels.dtype.kind in "iu" else labels
    rows = _rows_of(root, predictions, challenger.tags["test_digest"])
    right = _score(root, uri, champion, rows) == named
    return Measured(right[None], draws=_all_right(theirs).mean(axis=1))


def _rows_of(root: Path, predictions: pd.DataFrame, test_digest: str) -> NDArray[np.int64]:
    """Where the challenger's test images lie in the present store, which must have these very ones.

    Raises:
        TaskError: It has not, or images of the same names with other pixels.
    """
    import pandas as pd

    from data.store import PackedStore
    from tasks.exhibits import TestSet

    store = PackedStore.open(root / "artifacts" / "prepare" / "store")
    rows = pd.Index(store.index["id"]).get_indexer(predictions["id"])
    labels = predictions["label"].to_numpy()
    if (rows < 0).any() or TestSet.of(store, rows, labels).digest != test_digest:
        raise TaskError(
            "the champion was measured on another test set, and the present store lacks the "
            "challenger's: check out the challenger's commit, `dvc pull`, and judge again."
        )
    return rows


def _score(root: Path, uri: str, champion: ModelVersion, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The champion's labels for images of the present store."""
    import pandas as pd

    from data.store import PackedStore

    store = PackedStore.open(root / "artifacts" / "prepare" / "store")
    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        images, labels = Path(scratch) / "images.npy", Path(scratch) / "labels.json"
        np.save(images, store.gather(rows))
        model = f"models:/{champion.name}/{champion.version}"
        command = [sys.executable, "-I", "-c", _SCORE, model, str(images), str(labels)]
        done = subprocess.run(
            command,
            cwd=scratch,
            env=_environment(uri),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = tracking.shown((done.stderr.strip().splitlines() or ["no reason given"])[-1])
            raise TaskError(
                f"champion version {champion.version} cannot predict here ({last}): repair its "
                "environment, or archive it and judge again."
            )
        return pd.read_json(labels, dtype=False)["label"].to_numpy()


def _environment(uri: str) -> dict[str, str]:
    mlflow = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**unattended(os.environ), **mlflow}


def _classes(root: Path) -> list[str]:
    manifest = root / "artifacts" / "prepare" / "store" / "manifest.json"
    classes: list[str] = json.loads(manifest.read_text(encoding="utf-8"))["classes"]
    return classes


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _path(name: str, version: str) -> Path:
    return VERDICTS / f"{name}-v{version}.json"


def _former(root: Path, version: ModelVersion) -> Verdict | None:
    """The version's verdict of before; None if this checkout has none that it can read."""
    try:
        path = root / _path(version.name, str(version.version))
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["promoted"]
        gain = content.pop("gain")
        verdict = Verdict(**content, gain=gain and Interval(**gain))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Another checkout may have judged since; and after a loss of MLflow's database the file may be
    # of another version with this number.
    tagged = version.tags.get(registry.GATE), version.tags.get("gate_champion")
    return verdict if tagged == (verdict.outcome, verdict.champion) else None


def write(root: str | Path, verdict: Verdict) -> None:
    """Puts it into its file."""
    path = Path(root) / verdict.path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**dataclasses.asdict(verdict), "promoted": verdict.promoted}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def tags_of(verdict: Verdict) -> dict[str, str]:
    """The tags that tell of it, none of another verdict left beside them."""
    tags = {"gate_reasons": "; ".join(verdict.reasons), "gate_champion": verdict.champion or ""}
    for part in _PARTS:
        value = getattr(verdict.gain, part, None)
        tags[f"gate_gain_{part}"] = "" if value is None else f"{value:.6f}"
    # The last: what bears it counts as judged.
    return {**tags, registry.GATE: verdict.outcome}
