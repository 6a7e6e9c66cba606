"""A small project as a flow run leaves it: git, settings, real weights, and an MLflow database."""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

REPO = Path(__file__).resolve().parents[2]
CLASSES = ["bag", "coat", "shoe"]
SIZE = 16
ENCODER = {"name": "resnet_tiny", "stem_width": 4, "widths": [8, 8]}
LEARNER = {"name": "linear-probe"}
FIT = {"draw": 0, "seed": 7, "rows": [1, 2], "weights": "classifiers/pretrained-0.safetensors"}

PARAMS = """\
data: {source: npz, path: data/raw/images.npz, size: 16, channels: 1, seed: 0}
pretrain: {method: {name: simclr}, epochs: 2}
finetune: {learner: {name: linear-probe}, label_fraction: 0.05}
register: {name: tiny}
gate: {max_class_drop: 0.1}
"""
DVC_YAML = """\
stages:
  prepare:
    cmd: python -m tasks.stages.prepare
    params: [data]
    deps: ["${data.path}"]
    outs: [artifacts/prepare/store]
  pretrain:
    cmd: python -m tasks.stages.pretrain
    params: [pretrain]
    deps: [artifacts/prepare/store/manifest.json, models]
    outs: [artifacts/pretrain/encoder.safetensors]
"""
DVC_LOCK = """\
schema: '2.0'
stages:
  prepare:
    cmd: python -m tasks.stages.prepare
    outs:
    - {path: artifacts/prepare/store, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}
"""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables, made once: its first use of a database costs seconds."""
    from tasks.tracking.client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def _pretrained_once(tmp_path_factory):
    from tasks.stages.pretrain import pretrain
    from tests.tasks.small_stages import make_stage, prepare

    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare()
        pretrain(make_stage("pretrain"))
    return folder / "artifacts"


@pytest.fixture
def pretrained(_pretrained_once, tmp_path, monkeypatch):
    """A folder to work in, with what `prepare` and `pretrain` of `small_stages` leave."""
    shutil.copytree(_pretrained_once, tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_outer_settings(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def project(tmp_path, empty_database):
    """A committed checkout (with a space in its path) whose run has ended."""
    root = tmp_path / "my project"
    root.mkdir()
    shutil.copyfile(empty_database, root / "mlflow.db")
    for room in ("models", "data", "tasks"):
        skip = shutil.ignore_patterns("__pycache__", "raw")
        shutil.copytree(REPO / room, root / room, ignore=skip)
    (root / "data" / "raw").mkdir()
    (root / "data" / "raw" / "images.npz").write_bytes(b"raw pixels")
    (root / "params.yaml").write_text(PARAMS)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "dvc.lock").write_text(DVC_LOCK)
    (root / ".gitignore").write_text("artifacts\n.instar\nmlflow.db\nmlartifacts\ndata/raw\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    write_artifacts(root)
    return root


def git(root, *arguments):
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def uri(root):
    return f"sqlite:///{root}/mlflow.db"


def database(root):
    return sqlite3.connect(root / "mlflow.db")


def write_artifacts(root, seed=0, right=90, test_digest="test-1", gain_low=0.02, images=120):
    """What four stages leave; `right` of the test images are recognised, chosen by `seed`."""
    store = root / "artifacts" / "prepare" / "store"
    store.mkdir(parents=True, exist_ok=True)
    manifest = {"digest": "d" * 64, "count": images, "classes": CLASSES, "size": SIZE}
    (store / "manifest.json").write_text(json.dumps(manifest))
    write_json(root / "artifacts/prepare/summary.json", {"images": images})
    pretrain = root / "artifacts" / "pretrain"
    pretrain.mkdir(exist_ok=True)
    (pretrain / "history.csv").write_text("epoch,loss,knn\n1,2.5,0.4\n2,1.5,0.6\n")
    write_json(pretrain / "metrics.json", {"loss": 1.5, "rankme": 7})
    write_classifier(root / "artifacts" / "finetune", seed)
    evaluate = root / "artifacts" / "evaluate"
    evaluate.mkdir(exist_ok=True)
    write_json(evaluate / "metrics.json", metrics(right / images, test_digest, gain_low))
    predictions(seed, right, images).to_parquet(evaluate / "predictions.parquet")
    (evaluate / "report.html").write_text("<p>report</p>")


def metrics(accuracy, test_digest="test-1", gain_low=0.02):
    def interval(mean):
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 5}

    return {
        "label_fraction": 0.05,
        "labels": 6,
        "label_overlap": 0.1,
        "pretrained": {"accuracy": interval(accuracy)},
        "scratch": {"accuracy": interval(accuracy - 0.1)},
        "gain": {"mean": 0.1, "low": gain_low, "high": 0.2},
        "test_digest": test_digest,
    }


def predictions(seed, right, images=120, draws=5):
    """Draw 0 is right on `right` images; the others on one more or one less, mostly the same."""
    labels = np.arange(images) % len(CLASSES)
    wrong = np.random.default_rng(seed).permutation(images)[right:]
    predicted = labels.copy()
    predicted[wrong] = (labels[wrong] + 1) % len(CLASSES)
    names = [f"image-{number:05d}" for number in range(images)]
    columns = {"id": names, "label": labels, "predicted": predicted}
    order = np.random.default_rng(seed).permutation(images)
    for draw in range(draws):
        correct = np.ones(images, dtype=bool)
        correct[order[right + (0, 1, -1, 1, -1)[draw] :]] = False
        columns[f"correct_pretrained_{draw}"] = correct
    return pd.DataFrame(columns)


def write_classifier(folder, seed):
    """Real weights and their description, as the stage finetune writes them."""
    from models.encoders.images.encoder import build_encoder
    from models.encoders.params import EncoderParams
    from models.encoders.weights import save_weights
    from models.learners import LinearProbeParams, build_classifier
    from models.training.randomness import seeded

    encoder = build_encoder(EncoderParams.model_validate(ENCODER), 1, SIZE, [0.3], [0.3], seed=seed)
    with seeded(seed, "head"):
        classifier = build_classifier(LinearProbeParams(**LEARNER), encoder, len(CLASSES))
    save_weights(classifier, folder / "classifiers" / "pretrained-0.safetensors")
    described = {
        "classes": CLASSES,
        "size": SIZE,
        "channels": 1,
        "mean": [0.3],
        "std": [0.3],
        "encoder": ENCODER,
        "learner": LEARNER,
        "augmentation": {},
        "control": {"learner": LEARNER, "augmentation": {}},
        "arms": {"pretrained": [FIT]},
        "machine": {"device": "cpu test", "torch": "1.2.3"},
    }
    write_json(folder / "learners.json", described)
    (folder / "history.csv").write_text("arm,draw,step,loss\npretrained,0,1,0.5\n")
    write_json(folder / "metrics.json", {"pretrained_loss": 0.5})
    return classifier


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def publish(root, run_id, stages=("prepare", "pretrain", "finetune", "evaluate")):
    """A whole flow run, from the journals that its stages left."""
    from tasks.tracking.publisher import Publisher

    with Publisher(root, run_id, uri(root)) as publisher:
        for stage in stages:
            publisher.stage(stage, f"key-of-{stage}", "ran")
        assert publisher.close(timeout=60), publisher.notice
