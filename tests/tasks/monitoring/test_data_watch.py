"""What a look at the data says: on real git, DVC's cache, a packed store and an encoder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.packing.pack import pack
from models.encoders.images.encoder import build_encoder
from models.encoders.weights import save_weights
from tasks.errors import TaskError
from tasks.execution.workspace import BusyError
from tasks.monitoring import data_watch
from tasks.monitoring.data_watch import Started, due, last_started, look, note_started, one_start
from tasks.monitoring.drift import new_images, opened
from tasks.settings.editing import change_settings
from tasks.settings.loading import load_params
from tasks.tracking.client import connect
from tasks.versioning.past_runs import raw_data_of
from tests.tasks.conftest import git, uri

REPO = Path(__file__).resolve().parents[3]
PIPELINE = """\
stages:
  prepare:
    cmd: "true"
    deps: [pics]
    outs: [artifacts/prepare/store]
  pretrain:
    cmd: "true"
    deps: [artifacts/prepare/store]
    outs: [artifacts/pretrain/encoder.safetensors, artifacts/pretrain/encoder.json]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_database):
    """A checkout after a run on 120 images of two classes, whose model is in Production."""
    root = tmp_path_factory.mktemp("watching") / "project"
    root.mkdir()
    shutil.copy(REPO / "params.yaml", root)
    shutil.copyfile(empty_database, root / "mlflow.db")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".gitignore").write_text("/artifacts\n/.instar\n/mlflow.db\n/pics\n")
    for number in range(60):
        photograph(root / "pics" / "cat" / f"{number}.png", number)
        photograph(root / "pics" / "dog" / f"{number}.png", 1000 + number)
    change_settings(
        root, ["data.source=folder", "data.path=pics", "data.size=16", "register.name=tiny"]
    )
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    dvc(root, "init")
    params = load_params(root / "params.yaml")
    images = params.data.model_copy(update={"path": str(root / "pics")})
    summary = pack(images, root / "artifacts" / "prepare")
    encoder = build_encoder(params.pretrain.encoder, 1, 16, summary.mean, summary.std, seed=0)
    save_weights(encoder, root / "artifacts" / "pretrain" / "encoder.safetensors")
    (root / "artifacts" / "pretrain" / "encoder.json").write_text(
        json.dumps({"encoder": params.pretrain.encoder.model_dump(mode="json")})
    )
    dvc(root, "commit", "--force")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "a run")
    git(root, "tag", "instar/tiny/v1")
    client = connect(uri(root))
    client.create_registered_model("tiny")
    tags = {"git_commit": git(root, "rev-parse", "HEAD")}
    client.create_model_version("tiny", source=str(root), tags=tags)
    client.set_registered_model_alias("tiny", "champion", "1")
    return root


@pytest.fixture
def root(trained, tmp_path):
    """A copy of it, looked at once, as `instar watch` does again and again."""
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    look(root)
    return root


def dvc(root, *arguments):
    subprocess.run([sys.executable, "-P", "-m", "dvc", *arguments, "-q"], cwd=root, check=True)


def photograph(path, seed, brighter=0):
    random = np.random.default_rng(seed)
    pixels = random.normal(random.normal(100, 15), 30, (16, 16)) + brighter
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def add(root, count, brighter=0):
    for number in range(count):
        photograph(root / "pics" / "cat" / f"new-{number:03d}.png", 5000 + number, brighter)


def test_nothing_changed_is_said_without_opening_an_image(root, monkeypatch):
    monkeypatch.setattr(data_watch, "production_version", None)
    monkeypatch.setattr(data_watch, "measure_drift", None)
    report = look(root)
    assert (report.changed, report.since, report.items) == (False, "tiny@1", 120)
    assert due(report, "changed", settle=0) == (False, "nothing changed since tiny@1")


def test_what_is_new_removed_and_altered_is_named(root):
    add(root, 40)
    photograph(root / "pics" / "dog" / "7.png", 6000)
    (root / "pics" / "cat" / "3.png").unlink()
    report = look(root)
    assert report.changed
    assert (report.new.count, report.new.first[0]) == (40, "cat/new-000.png")
    assert (report.removed.count, report.removed.first) == (1, ["cat/3.png"])
    assert (report.altered.count, report.altered.first) == (1, ["dog/7.png"])


def test_new_images_of_the_same_kind_start_a_run_as_a_change_but_not_as_a_drift(root):
    add(root, 40)
    report = look(root)
    assert (report.drift.against, report.drift.new, report.drift.training) == ("tiny@1", 40, 96)
    assert not report.drift.drifted and report.drift.p > report.drift.alpha
    assert due(report, "changed", settle=0)[0]
    assert not due(report, "drifted", settle=0)[0]


def test_brighter_images_are_drift_seen_in_the_brightness_alone_of_the_pixels(root):
    add(root, 40, brighter=25)
    report = look(root)
    assert report.drift.drifted
    by_name = {each.name: each for each in report.drift.statistics}
    assert by_name["brightness"].p <= report.drift.alpha < by_name["contrast"].p
    assert by_name["brightness"].effect > 0.4
    assert due(report, "drifted", settle=0)[0]


def test_without_a_version_in_production_a_change_decides_alone(root):
    connect(uri(root)).delete_registered_model_alias("tiny", "champion")
    add(root, 40)
    report = look(root)
    assert report.drift is None and "no version of tiny is in Production yet" in report.not_measured
    assert due(report, "drifted", settle=0)[0]


def test_what_keeps_drift_from_being_measured_is_said_and_is_no_drift(root, monkeypatch):
    add(root, 5)
    report = look(root)
    assert "the test needs 10" in report.not_measured
    add(root, 40)
    shutil.rmtree(root / ".dvc" / "cache")
    report = look(root)
    assert "dvc fetch" in report.not_measured
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    report = look(root)
    assert "MLflow" in report.not_measured
    assert due(report, "changed", settle=0)[0]
    assert not due(report, "drifted", settle=0)[0]


def test_a_production_version_that_instar_did_not_make_is_no_measure(root):
    client = connect(uri(root))
    client.create_model_version("tiny", source=str(root))
    client.set_registered_model_alias("tiny", "champion", "2")
    add(root, 40)
    report = look(root)
    assert "tiny@2, in Production, was not registered by Instar" in report.not_measured
    assert not due(report, "drifted", settle=0)[0]


def test_a_commit_that_somebody_wrote_into_mlflow_is_no_option_of_git(root):
    with pytest.raises(TaskError, match="git has no params.yaml"):
        raw_data_of(root, "--output=written")
    assert not list(root.glob("written*"))


def test_before_the_first_run_all_is_new(root):
    git(root, "tag", "-d", "instar/tiny/v1")
    report = look(root)
    assert (report.changed, report.since, report.new.count) == (True, None, 120)


def test_data_without_a_memory_of_those_before_are_changed_all_the_same(root):
    shutil.rmtree(root / ".instar")
    shutil.rmtree(root / ".dvc" / "cache")
    add(root, 1)
    report = look(root)
    assert report.changed and (report.new, report.removed, report.altered) == (None, None, None)


def test_one_state_of_the_data_starts_one_run(root):
    add(root, 40)
    report = look(root)
    note_started(root, Started(report.version, "failed", "prepare stopped"))
    start, why = due(look(root), "changed", settle=0)
    assert not start and "already: prepare stopped" in why
    add(root, 41)
    assert due(look(root), "changed", settle=0)[0], "another state starts another run"


def test_a_run_that_was_killed_is_started_again(root):
    add(root, 40)
    note_started(root, Started(look(root).version))
    assert last_started(root).outcome == "running"
    assert due(look(root), "changed", settle=0)[0]


def test_a_run_waits_until_the_data_rest(root):
    add(root, 40)
    start, why = due(look(root), "changed", settle=60)
    assert not start and "rest for 60 s" in why


def test_of_two_looks_at_once_one_may_start_a_run(root):
    with one_start(root), pytest.raises(BusyError, match="goes on"), one_start(root):
        pass
    with one_start(root):
        pass


def test_what_was_measured_is_not_measured_again(root, monkeypatch):
    add(root, 40)
    first = look(root)
    monkeypatch.setattr(data_watch, "measure_drift", None)
    assert look(root) == first


def test_only_unknown_training_images_count_as_new(root):
    pics = root / "pics"
    add(root, 12)
    shutil.copy(pics / "dog" / "1.png", pics / "dog" / "the same under another name.png")
    (pics / "cat" / "broken.png").write_bytes(b"no image")
    photograph(root / "other" / "train" / "cat" / "1.png", 7000)
    photograph(root / "other" / "train" / "dog" / "1.png", 7001)
    photograph(root / "other" / "test" / "cat" / "1.png", 7002)
    params = load_params(root / "params.yaml").data
    with opened(root, git(root, "rev-parse", "instar/tiny/v1")) as (store, _):
        found, unreadable = new_images(
            params.model_copy(update={"path": str(pics)}), store, None, most=100
        )
        assert (len(found), unreadable) == (12, 1)
        other = params.model_copy(update={"path": str(root / "other")})
        assert len(new_images(other, store, None, most=100)[0]) == 2, "a test image was counted"
