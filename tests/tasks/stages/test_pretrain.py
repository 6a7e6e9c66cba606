import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from data.store.packed_store import PackedStore, evenly_spread
from models.encoders.images.encoder import build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.weights import load_weights
from models.methods.contrastive import simclr
from models.methods.contrastive.simclr import SimCLR
from models.training.eval_mode import evaluating
from tasks.errors import TaskError
from tasks.layout import ARTIFACTS
from tasks.reporting.method_pictures import read_rows
from tasks.stages.pretrain import pretrain, view_policies
from tests.tasks.small_stages import make_stage, prepare


@pytest.fixture(autouse=True)
def _prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()


def test_too_few_labels_for_the_probe_are_blamed_on_its_own_setting():
    with pytest.raises(TaskError, match=r"^pretrain.probe_fraction = 0.01: .* raise pretrain.pr"):
        pretrain(make_stage("pretrain", probe_fraction=0.01))


def test_ctrl_c_is_an_interrupt_which_the_stage_can_tell_from_an_exit(monkeypatch):
    run = make_stage("pretrain", epochs=50)
    monkeypatch.setattr(run, "progress", lambda *_: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(run)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def test_encoder_is_described_with_all_that_its_pretraining_learned_from():
    run = make_stage("pretrain", epochs=2)
    pretrain(run)
    described = json.loads((run.out / "encoder.json").read_text())
    assert (described["encoder"]["stem_width"], described["size"]) == (4, 8)
    told = described["pretraining"]
    assert (told["method"]["name"], told["optimizer"]["name"]) == ("simclr", "adamw")
    assert (told["epochs"], told["batch_size"], told["augmentation"]["crop_scale"][0]) == (
        2,
        16,
        0.5,
    )
    # An edit of what changes no result must not make the later stages run again.
    assert not {"workers", "probe_fraction"} & set(told)


class Showing(simclr.SimCLR):
    """A method that shows the negative of each image, and noise."""

    def pictures(self, images):
        assert not (self.training or torch.is_grad_enabled())
        return {"negative": 1 - images, "noise": torch.rand_like(images)}


def test_what_a_method_makes_of_images_is_kept_the_same_bytes_each_time(monkeypatch):
    monkeypatch.setattr(simclr, "SimCLR", Showing)
    kept = []
    for _ in range(2):
        run = make_stage("pretrain")
        pretrain(run)
        kept.append((run.out / "pictures.npz").read_bytes())
        rows = read_rows(run.out / "pictures.npz")
        shutil.rmtree(run.out)
    assert kept[0] == kept[1]
    assert [*rows] == ["training images", "negative", "noise"]
    store = PackedStore.open(ARTIFACTS / "prepare" / "store")
    shown = store.gather(evenly_spread(store.rows("train"), 12))
    assert (rows["training images"] == shown).all()
    assert (rows["negative"] == 255 - shown).all()
    assert rows["noise"].shape == (12, 8, 8, 1)


def test_method_that_shows_nothing_leaves_a_file_without_rows():
    run = make_stage("pretrain")
    pretrain(run)
    assert (run.out / "pictures.npz").is_file() and read_rows(run.out / "pictures.npz") == {}


def test_batch_norm_of_the_kept_encoder_knows_whole_images():
    run = make_stage("pretrain")
    pretrain(run)
    shape = json.loads((run.out / "encoder.json").read_text())
    kept = {name: shape[name] for name in ("channels", "size", "mean", "std")}
    encoder = build_encoder(run.params.pretrain.encoder, **kept, seed=0)
    load_weights(encoder, run.out / "encoder.safetensors")
    store = PackedStore.open(ARTIFACTS / "prepare" / "store")
    whole = to_float(torch.from_numpy(store.gather(store.rows("train"))))
    norm = next(m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    reached = {}
    norm.register_forward_hook(lambda _, inputs, __: reached.update(norm=inputs[0]))
    with evaluating(encoder):
        encoder(whole)
    torch.testing.assert_close(norm.running_mean, reached["norm"].mean((0, 2, 3)))


def test_what_a_method_measures_of_itself_is_in_history_journal_and_metrics():
    run = make_stage("pretrain", epochs=2, method={"name": "vicreg", "projector_dim": 8})
    pretrain(run)
    terms = {"invariance", "variance", "covariance"}
    rows = list(csv.DictReader((run.out / "history.csv").open()))
    assert terms <= set(rows[0]) and float(rows[1]["variance"]) > 0
    assert terms <= set(json.loads((run.out / "metrics.json").read_text()))
    events = [json.loads(line) for line in Path("pretrain.jsonl").read_text().splitlines()]
    told = [event["values"] for event in events if event["event"] == "metrics"]
    assert len(told) == 2 and all(terms <= set(metrics) for metrics in told)


def test_small_crops_are_as_the_method_asks_and_else_as_the_views():
    crops = {"local_views": 3, "local_size": 9, "local_crop_scale": [0.1, 0.2]}
    params = make_stage("pretrain", method={"name": "swav", **crops}).params.pretrain
    views = view_policies(params)
    assert views[:2] == [params.augmentation] * 2
    asked = {"view_size": 9, "crop_scale": (0.1, 0.2)}
    assert views[2:] == [params.augmentation.model_copy(update=asked)] * 3


def test_crop_scale_that_runs_backwards_is_refused_for_small_crops_too():
    with pytest.raises(TaskError, match="write the lower first"):
        make_stage("pretrain", method={"name": "swav", "local_crop_scale": [0.4, 0.1]})


def test_method_is_told_how_many_images_its_index_tells_apart(monkeypatch):
    told, seen = [], set()
    step = SimCLR.training_step
    monkeypatch.setattr(SimCLR, "expect", lambda _, images: told.append(images))
    monkeypatch.setattr(
        SimCLR,
        "training_step",
        lambda self, batch: seen.update(batch["index"].tolist()) or step(self, batch),
    )
    pretrain(make_stage("pretrain"))
    assert told == [48] and seen == set(range(48))
