"""The stage on a small synthetic project: right numbers, same bytes, clear errors."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore, read_test_labels
from data.store.splits import draw_labels
from models.encoders.images.encoder import build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import EncoderParams
from models.encoders.weights import save_weights
from models.learners import LinearProbeParams, fit_classifier
from tasks.errors import TaskError
from tasks.reporting.method_pictures import write_rows
from tasks.settings.schema import EvaluateParams
from tasks.stages.evaluate import evaluate

CLASSES = ["left", "<script>right", 'both, or "none"']
ENCODER = EncoderParams(stem_width=4, widths=(4, 8))
PRETRAINING = {"method": {"name": "simclr", "temperature": 0.2}, "batch_size": 64}
PARAMS = EvaluateParams(neighbours=5, embedding_points=50, bins=10, threads=1)


def make_images(count, seed, channels):
    """Noise with a bright left half, right half or both."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 120, (count, 16, 16, channels), dtype=np.uint8)
    images[labels != 1, :, :8] += 70
    images[labels != 0, :, 8:] += 70
    return images, labels


def make_artifacts(folder, draws=2, channels=1):
    train, test = make_images(240, 0, channels), make_images(60, 1, channels)
    train[0][7] = test[0][4]  # a duplicate, to be left out
    np.savez(
        folder / "images.npz",
        **dict(zip(("train_images", "train_labels"), train, strict=True)),
        **dict(zip(("test_images", "test_labels"), test, strict=True)),
        classes=np.array(CLASSES),
    )
    artifacts = folder / "artifacts"
    for name in ("prepare", "pretrain", "finetune/classifiers"):
        (artifacts / name).mkdir(parents=True)
    source = DataParams(source="npz", path=str(folder / "images.npz"), size=16, channels=channels)
    pack(source, artifacts / "prepare")
    store = PackedStore.open(artifacts / "prepare" / "store")
    shape = {name: store.manifest[name] for name in ("channels", "size", "mean", "std")}
    save_weights(
        build_encoder(ENCODER, **shape, seed=0), artifacts / "pretrain" / "encoder.safetensors"
    )
    made = {"training images": torch.zeros(2, channels, 16, 16)}
    made["rebuilt"] = torch.full((2, channels, 16, 16), 0.8)
    write_rows(artifacts / "pretrain" / "pictures.npz", made)
    pretrained = {"pretraining": PRETRAINING}
    (artifacts / "pretrain" / "encoder.json").write_text(json.dumps(pretrained))
    rows = store.rows("train")
    learner = LinearProbeParams(penalties=(0.1,))
    arms = {"pretrained": [], "scratch": []}
    for draw in range(draws):
        drawn = rows[draw_labels(store.labels(rows), 0.1, 0, draw)]
        for number, fits in enumerate(arms.values()):
            classifier = fit_classifier(
                learner,
                build_encoder(ENCODER, **shape, seed=number),
                torch.from_numpy(store.gather(drawn)),
                torch.from_numpy(store.labels(drawn)),
                3,
                lambda images, _: to_float(images),
                seed=draw,
            )
            weights = f"classifiers/{'ps'[number]}-{draw}.safetensors"
            save_weights(classifier, artifacts / "finetune" / weights)
            fits.append({"draw": draw, "seed": draw, "weights": weights, "rows": drawn.tolist()})
    described = {
        "classes": store.classes,
        "encoder": ENCODER.model_dump(mode="json"),
        **shape,
        "label_fraction": 0.1,
        "labels": len(drawn),
        "label_overlap": 0.1,
        "learner": learner.model_dump(mode="json"),
        "augmentation": {"erase": 0.0},
        "control": {
            "learner": learner.model_dump(mode="json"),
            "augmentation": {"erase": 0.5},
        },
        "abstention": {"target": 0.9, "judged": 24, "coverage": 0.8, "threshold": 0.6},
        "arms": arms,
    }
    (artifacts / "finetune" / "learners.json").write_text(json.dumps(described))
    return artifacts


def run(artifacts, out):
    out.mkdir()
    return evaluate(PARAMS, artifacts, out, lambda *_: None)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return make_artifacts(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def out(artifacts):
    run(artifacts, artifacts / "evaluate")
    return artifacts / "evaluate"


def test_metrics_agree_with_the_predictions(artifacts, out):
    metrics = json.loads((out / "metrics.json").read_text())
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    truth = read_test_labels(artifacts / "prepare")
    assert table["id"].tolist() == truth["id"].tolist()
    assert table["label"].tolist() == truth["label"].tolist()
    probabilities = table[["prob_0", "prob_1", "prob_2"]].to_numpy()
    assert (probabilities.argmax(1) == table["predicted"]).all()
    means = {
        arm: np.mean([table[f"correct_{arm}_{draw}"].mean() for draw in (0, 1)])
        for arm in ("pretrained", "scratch")
    }
    for arm, mean in means.items():
        assert metrics[arm]["accuracy"]["mean"] == pytest.approx(mean, abs=1e-6)
        assert metrics[arm]["accuracy"]["n"] == 2
    gain = means["pretrained"] - means["scratch"]
    assert metrics["gain"]["mean"] == pytest.approx(gain, abs=1e-6)
    assert metrics["gain"]["low"] <= gain <= metrics["gain"]["high"]
    # The halves are easy to tell apart, whatever the encoder.
    assert metrics["accuracy"] > 0.6 and metrics["linear"] > 0.6


def test_abstention_is_judged_on_the_test_set_beside_what_was_promised(out):
    metrics = json.loads((out / "metrics.json").read_text())
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    sure = table[["prob_0", "prob_1", "prob_2"]].max(axis=1) >= 0.6
    right = table["predicted"] == table["label"]
    assert 0 < sure.sum() < len(table)
    assert metrics["abstention"] == {
        "target": 0.9,
        "judged": 24,
        "coverage": 0.8,
        "threshold": 0.6,
        "answered": pytest.approx(sure.mean(), abs=1e-6),
        "accuracy": pytest.approx(right[sure].mean(), abs=1e-6),
    }
    page = " ".join((out / "report.html").read_text().split())
    assert f"answers {100 * sure.mean():.1f}% of the images (80.0% expected)" in page


@pytest.mark.parametrize(
    ("abstention", "said"),
    [
        ({"target": 0.9, "judged": 7, "coverage": 0.0, "threshold": None}, "abstains from every"),
        (None, None),
    ],
)
def test_model_that_never_or_always_abstains_is_evaluated(artifacts, tmp_path, abstention, said):
    copy = tmp_path / "artifacts"
    shutil.copytree(artifacts, copy, ignore=shutil.ignore_patterns("evaluate"))
    path = copy / "finetune" / "learners.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"abstention": abstention}))
    metrics = run(copy, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    if said is None:
        assert metrics["abstention"] is None and "abstains" not in page
    else:
        assert metrics["abstention"]["answered"] == 0 and metrics["abstention"]["accuracy"] is None
        assert said in page


def test_scores_are_the_numbers_of_the_metrics_that_runs_are_compared_by(out):
    metrics, scores = (json.loads((out / f"{n}.json").read_text()) for n in ("metrics", "scores"))
    assert scores == {
        "pretrained": metrics["pretrained"]["accuracy"]["mean"],
        "scratch": metrics["scratch"]["accuracy"]["mean"],
        "gain": metrics["gain"]["mean"],
        "gain_low": metrics["gain"]["low"],
        "gain_high": metrics["gain"]["high"],
        "labels": metrics["labels"],
        "knn": metrics["knn"],
        "linear": metrics["linear"],
    }


def test_plots_hold_the_same_numbers(out):
    tables = {}
    for name in ("confusion", "reliability", "accuracy"):
        with (out / "plots" / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert len(tables["confusion"]) == 60
    assert {row["actual"] for row in tables["confusion"]} == set(CLASSES)
    assert sum(int(row["count"]) for row in tables["reliability"]) == 60
    right = np.mean([row["actual"] == row["predicted"] for row in tables["confusion"]])
    accuracy = {(row["arm"], row["draw"]): float(row["accuracy"]) for row in tables["accuracy"]}
    assert accuracy["pretrained", "0"] == pytest.approx(right, abs=1e-6)
    assert len(accuracy) == 4


def test_report_counts_what_was_left_out_and_escapes_names(out):
    content = json.loads((out / "report.json").read_text())
    assert content["data"]["left_out"] == 1
    (left_out,) = content["data"]["reasons"]
    assert left_out["reason"] == "exact duplicate of another image"
    assert left_out["example"] == "train_images/0000007"
    page = (out / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;right" in page
    assert str(out.parent) not in page


def test_report_shows_how_the_encoder_was_pretrained(out):
    rows = dict(json.loads((out / "report.json").read_text())["setup"]["rows"])
    assert rows["Pretraining method"] == "name=simclr, temperature=0.2"
    assert rows["Pretraining batch size"] == "64"
    assert "<dt>Pretraining method</dt>" in (out / "report.html").read_text()


def test_report_shows_what_the_method_made_of_images(out):
    content = json.loads((out / "report.json").read_text())
    assert content["method_pictures"] == [
        {"caption": "training images", "ids": ["made/0/0", "made/0/1"]},
        {"caption": "rebuilt", "ids": ["made/1/0", "made/1/1"]},
    ]
    page = (out / "report.html").read_text()
    (shown,) = re.findall(r'src="data:image/png;base64,([^"]*)" alt="rebuilt, image 2"', page)
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(shown)))) == 204).all()


def test_artifacts_without_pictures_of_the_method_are_evaluated(artifacts, tmp_path):
    copy = tmp_path / "artifacts"
    shutil.copytree(artifacts, copy, ignore=shutil.ignore_patterns("evaluate", "pictures.npz"))
    run(copy, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["method_pictures"] == []


def test_same_inputs_give_the_same_bytes(artifacts, out, tmp_path):
    run(artifacts, tmp_path / "again")
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes(), path


def test_single_draw_of_colour_images_has_no_interval(tmp_path):
    metrics = run(make_artifacts(tmp_path, draws=1, channels=3), tmp_path / "out")
    assert metrics["gain"]["low"] is None and metrics["gain"]["n"] == 1
    assert "One draw of labels" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "missing",
    [
        "prepare/test_labels.parquet",
        "pretrain/encoder.safetensors",
        "pretrain/encoder.json",
        "finetune/learners.json",
        "finetune/classifiers/s-1.safetensors",
    ],
)
def test_missing_input_is_named_with_the_command_that_makes_it(artifacts, tmp_path, missing):
    copy = tmp_path / "artifacts"
    shutil.copytree(artifacts, copy, ignore=shutil.ignore_patterns("evaluate"))
    (copy / missing).unlink()
    with pytest.raises(TaskError, match=f"{missing.split('/')[-1]} is missing; run `dvc repro`"):
        run(copy, tmp_path / "out")
