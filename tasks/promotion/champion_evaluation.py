"""How a champion does on a challenger's test images, whatever it was measured on itself.

Both are judged by one rule, the best class, whether or not the champion would abstain. Of a test
set that the champion was not measured on, only its registered model can be asked. It is shown the
images as it takes them itself, and those whose labels it learned from do not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TaskError
from tasks.evaluation.confidence_intervals import Measured
from tasks.promotion.originals import write_as_taken
from tasks.registry import tags
from tasks.serving.loading import DATA, download
from tasks.serving.model import DESCRIPTION
from tasks.serving.packaging import DRAW
from tasks.system import redaction
from tasks.system.unattended import unattended
from tasks.versioning.dvc_cache import cache_folder, files_of
from tasks.versioning.past_runs import outputs_of

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from data.store.packed_store import PackedStore

STORE = Path("artifacts/prepare/store")
LEARNERS = "artifacts/finetune/learners.json"
# How many names a sentence lists.
NAMED = 5

# Runs by itself: a champion brings its own code, which must not meet this checkout's.
_ANSWER = """
import sys, mlflow, numpy
images = numpy.load(sys.argv[2], mmap_mode="r")
mlflow.pyfunc.load_model(sys.argv[1]).predict(images).to_parquet(sys.argv[3])
"""


@dataclass(frozen=True)
class Evaluation:
    """What `registration.register` kept of a version.

    Attributes:
        predictions: A row for each test image; see `tasks.stages.evaluate`.
        metrics: The content of metrics.json.
    """

    predictions: pd.DataFrame
    metrics: dict[str, Any]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) the class number of each test image."""
        return self.predictions["label"].to_numpy()

    @property
    def all_right(self) -> NDArray[np.bool_]:
        """(D, N) whether the model of each draw is right on each test image."""
        prefix = "correct_pretrained_"
        columns = [str(name) for name in self.predictions.columns if str(name).startswith(prefix)]
        # In the order of the draws: draw 10 comes after draw 9.
        columns.sort(key=lambda name: int(name.removeprefix(prefix)))
        return self.predictions[columns].to_numpy().T

    @property
    def registered_right(self) -> NDArray[np.bool_]:
        """(N,) whether the registered model, that of draw 0, is right on each test image."""
        return (self.predictions["label"] == self.predictions["predicted"]).to_numpy()

    @property
    def classes(self) -> dict[str, str]:
        """The names of all classes, by their form for comparisons; empty where it does not say."""
        return {comparable(name): name for name in self.metrics.get("recall", {})}


@dataclass(frozen=True)
class OnTestSet:
    """The champion on the challenger's test images.

    Attributes:
        counted: (N,) which of the challenger's test images count.
        measured: The champion on these.
        known: (n,) of these, whether the champion knows the image's class.
        untested: Classes that both know and of which only the champion's test set had images.
        conditions: How it was measured, in words; empty where both were measured alike.
    """

    counted: NDArray[np.bool_]
    measured: Measured
    known: NDArray[np.bool_]
    untested: tuple[str, ...] = ()
    conditions: str = ""


def evaluation_of(client: MlflowClient, version: ModelVersion) -> Evaluation:
    """The evaluation of a registered version.

    Raises:
        TaskError: It was registered by hand and has none.
    """
    import pandas as pd

    if not version.run_id:
        raise TaskError(
            f"version {version.version} was registered by hand, so it has no evaluation to judge: "
            "`instar run` registers one that has."
        )
    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        folder = Path(client.download_artifacts(version.run_id, tags.EVALUATION, scratch))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return Evaluation(pd.read_parquet(folder / "predictions.parquet"), metrics)


def comparable(name: str) -> str:
    """A class name in the one form in which names are compared: 'é' has two spellings."""
    return unicodedata.normalize("NFC", name)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, of many only the first ones."""
    names = sorted(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def on_test_set(
    root: Path,
    client: MlflowClient,
    uri: str,
    challenger: ModelVersion,
    champion: ModelVersion,
    ours: Evaluation,
    theirs: Evaluation,
) -> OnTestSet:
    """Measure the champion on the challenger's test images, in their order.

    Of another test set only the registered model can be asked, that of draw 0; how far draws lie
    apart is then known from the test set on which all of them were measured.

    Raises:
        TaskError: The images are not here, or the champion cannot be asked.
    """
    if champion.tags.get("test_digest") == challenger.tags.get("test_digest"):
        ordered = theirs.predictions.set_index("id").loc[ours.predictions["id"]]
        everything = np.ones(len(ordered), bool)
        measured = Measured(Evaluation(ordered, theirs.metrics).all_right)
        return OnTestSet(everything, measured, everything)
    store, rows = _rows_of(root, ours, challenger.tags["test_digest"])
    described, answers = _asked(root, client, uri, champion, store, rows)
    said = [comparable(name) for name in best_classes(answers, str(champion.version))]
    names = [comparable(store.classes[number]) for number in ours.labels]
    right = np.array([one == other for one, other in zip(said, names, strict=True)])
    classes = [comparable(name) for name in described["classes"]]
    tested = {classes[number] for number in np.unique(theirs.labels)}
    untested = tested & set(map(comparable, store.classes)) - set(names)
    learned, conditions = _overlap(root, champion, described, store, rows)
    return OnTestSet(
        ~learned,
        Measured(right[None, ~learned], draws=theirs.all_right.mean(axis=1)),
        np.array([name in classes for name in names])[~learned],
        tuple(sorted(untested)),
        conditions,
    )


def best_classes(answers: pd.DataFrame, version: str) -> list[str]:
    """What a served model takes each image for, also where it abstains: there `label` is null.

    Args:
        answers: Of its `predict`.
        version: Its number, for the error.

    Raises:
        TaskError: The answers hold neither `guess` nor probabilities, and `label` is null at times.
    """
    if "guess" in answers and answers["guess"].notna().all():
        return [str(name) for name in answers["guess"]]
    # As served before there was a `guess`.
    prefix = "prob_"
    columns = [name for name in answers if str(name).startswith(prefix)]
    if columns:
        best = answers[columns].to_numpy(dtype=np.float64).argmax(axis=1)
        return [columns[place].removeprefix(prefix) for place in best]
    if "label" in answers and answers["label"].notna().all():
        return [str(name) for name in answers["label"]]
    raise TaskError(
        f"champion version {version} answers without the column guess or prob_<class>, and its "
        "label is null where it abstains, so what it takes these images for is unknown: "
        "archive it, or promote the challenger with --override --reason …."
    )


def _rows_of(
    root: Path, ours: Evaluation, test_digest: str
) -> tuple[PackedStore, NDArray[np.int64]]:
    """Where the challenger's test images lie in the present store, which must have these very ones.

    Raises:
        TaskError: It has not, or images of the same names with other pixels.
    """
    import pandas as pd

    from data.store.packed_store import PackedStore
    from tasks.evaluation.test_set import TestSet

    store = PackedStore.open(root / STORE)
    rows = pd.Index(store.index["id"]).get_indexer(pd.Index(ours.predictions["id"]))
    if (rows < 0).any() or TestSet.of(store, rows, ours.labels).digest != test_digest:
        raise TaskError(
            "the champion was measured on another test set, and the present store lacks the "
            "challenger's: check out the challenger's commit, `dvc pull`, and judge again."
        )
    return store, rows


def _asked(
    root: Path,
    client: MlflowClient,
    uri: str,
    champion: ModelVersion,
    store: PackedStore,
    rows: NDArray[np.int64],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The champion's description, and its answers for images of the present store."""
    import pandas as pd

    name = f"{champion.name}@{champion.version}"
    with tempfile.TemporaryDirectory(prefix="instar-gate-") as scratch:
        images, answers = Path(scratch) / "images.npy", Path(scratch) / "answers.parquet"
        source = client.get_model_version_download_uri(champion.name, champion.version)
        model = download(source, Path(scratch), uri, name)
        try:
            described = json.loads((model / DATA / DESCRIPTION).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise _unable(champion, "its files are not those of a model of Instar's") from None
        write_as_taken(root, store, rows, described, name, images)
        command = [sys.executable, "-I", "-c", _ANSWER, str(model), str(images), str(answers)]
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
            last = redaction.shown((done.stderr.strip().splitlines() or ["no reason given"])[-1])
            raise _unable(champion, last)
        return described, pd.read_parquet(answers)


def _unable(champion: ModelVersion, why: str) -> TaskError:
    return TaskError(
        f"champion version {champion.version} cannot predict here ({why}): repair its "
        "environment, or archive it and judge again."
    )


def _environment(uri: str) -> dict[str, str]:
    mlflow = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**unattended(os.environ), **mlflow}


def _overlap(
    root: Path,
    champion: ModelVersion,
    described: dict[str, Any],
    store: PackedStore,
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], str]:
    """Which test images the champion learned the labels of, and how it was measured, in words."""
    total = len(rows)
    told = [f"champion {champion.version} was measured on other images before"]
    told.append("so its registered model alone was asked")
    shape = described["size"], described["channels"]
    same_shape = shape == (store.manifest["size"], store.manifest["channels"])
    if not same_shape:
        told.append("with the original images at {0} x {0} x {1}".format(*shape))
    images = _trained_on(root, champion.tags.get("git_commit", ""))
    if images is None:
        learned = np.zeros(total, bool)
        told.append(
            "and as DVC's cache lacks what it was made of, images that it learned from may count "
            "for it"
        )
    else:
        # Pixels tell where both were packed alike; a name may have got another image.
        key = "sha256" if same_shape else "id"
        ours = store.index[key].iloc[rows]
        learned = ours.isin(images.loc[images["learned"], key]).to_numpy()
        seen = int(ours.isin(images[key]).to_numpy()[~learned].sum())
        if learned.any():
            told.append(f"the {learned.sum()} whose labels it learned from are left out")
        if seen:
            told.append(f"and its encoder had seen {seen} of them without a label")
    return learned, f"on {total - learned.sum()} of {total} test images ({', '.join(told)})"


def _trained_on(root: Path, commit: str) -> pd.DataFrame | None:
    """The training images of a version: id, sha256 and whether draw 0 learned from their label.

    None where git or DVC's cache does not have them any more.
    """
    import pandas as pd

    try:
        made = outputs_of(root, commit)
        cache = cache_folder(root)
        files = dict(files_of(cache, str(STORE), made[str(STORE)]))
        index = pd.read_parquet(files[f"{STORE}/index.parquet"], columns=["id", "sha256", "split"])
        learners = next(files_of(cache, LEARNERS, made[LEARNERS]))[1]
        fits = json.loads(learners.read_text(encoding="utf-8"))["arms"]["pretrained"]
        rows = next(fit["rows"] for fit in fits if fit["draw"] == DRAW)
    except (TaskError, OSError, ValueError, LookupError):
        return None
    index["learned"] = index.index.isin(rows)
    return index[index["split"] == "train"]
