"""Draws that cannot differ in their labels are not passed off as draws of labels."""

import json

import numpy as np
import pytest

from data.packing.pack import pack
from data.sources.params import DataParams
from flows.commands.run_summary import verdict_in_words
from tasks.evaluation.label_draws import label_overlap, repetitions
from tasks.reporting.report import certainty, render
from tasks.stages import finetune
from tasks.stages.context import stage
from tests.tasks.reporting.test_report import PICTURES, make_content

PARAMS = """\
data: {source: npz, path: images.npz, size: 8, channels: 1}
pretrain: {method: {name: simclr}}
finetune:
  {learner: {name: linear-probe}, label_fraction: 0.1, draws: 3, abstain_target: 0}
"""


def test_overlap_is_the_mean_over_all_pairs():
    assert label_overlap([[1, 2], [1, 3], [4, 5]]) == pytest.approx(0.5 / 3)
    assert label_overlap([[1, 2], [2, 1]]) == 1
    assert label_overlap([[1, 2]]) == 0


def describe(folder, labelled, monkeypatch):
    """What the stage leaves of 200 training images, so many of them labelled."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (210, 8, 8), np.uint8)
    np.savez(
        folder / "images.npz",
        train_images=images[:labelled], train_labels=np.arange(labelled) % 2,
        test_images=images[200:], test_labels=np.arange(10) % 2,
        unlabelled_images=images[labelled:200],
    )  # fmt: skip
    (folder / "params.yaml").write_text(PARAMS)
    source = DataParams(source="npz", path=str(folder / "images.npz"), size=8, channels=1)
    pack(source, folder / "artifacts" / "prepare")
    (folder / "artifacts" / "pretrain").mkdir()
    described = {"encoder": {}, "channels": 1, "size": 8, "mean": [0.5], "std": [0.3]}
    (folder / "artifacts" / "pretrain" / "encoder.json").write_text(json.dumps(described))
    (folder / "dvc.yaml").write_text("stages: {finetune: {cmd: python -m tasks.stages.finetune}}")
    monkeypatch.chdir(folder)
    learned = [{"step": 1, "loss": 1.0}]
    monkeypatch.setattr(finetune, "fit_all", lambda fits, *_: ((fit, learned) for fit in fits))
    with stage("finetune") as run:
        finetune.finetune(run)
    out = folder / "artifacts" / "finetune"
    return [json.loads((out / name).read_text()) for name in ("learners.json", "metrics.json")]


@pytest.mark.parametrize(
    ("labelled", "labels", "fraction", "low", "high"),
    [(190, 20, 0.1, 0, 0.3), (24, 20, 0.1, 0.6, 0.99), (20, 20, 0.1, 1, 1), (8, 8, 0.04, 1, 1)],
)
def test_finetune_records_what_its_draws_have_in_common(
    tmp_path, monkeypatch, labelled, labels, fraction, low, high
):
    learned, metrics = describe(tmp_path, labelled, monkeypatch)
    assert (learned["labels"], learned["label_fraction"]) == (labels, fraction)
    assert low <= learned["label_overlap"] <= high
    assert metrics["label_overlap"] == pytest.approx(learned["label_overlap"], abs=1e-6)


def test_fits_on_the_same_labels_are_called_seeds_everywhere():
    metrics = make_content()["metrics"] | {"label_overlap": 1.0}
    assert repetitions(metrics) == "3 seeds on the same labels"
    page = render(make_content() | {"metrics": metrics}, PICTURES)
    assert "seed by seed" in page and "3 seeds on the same labels" in page
    assert "draws" not in certainty(metrics) and "other labels and seeds" not in page
    assert "Each draw picks other images" not in page
    assert "3 seeds on the same labels" in verdict_in_words(metrics)


def test_draws_of_other_labels_are_called_draws_and_say_how_far_they_differ():
    metrics = make_content()["metrics"]
    page = render(make_content(), PICTURES)
    assert "Each draw picks other images" in page
    assert "3 draws of labels. Two draws have 10% of their labels in common" in certainty(metrics)
    assert verdict_in_words(metrics).endswith("over 3 draws of labels).")
