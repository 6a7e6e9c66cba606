"""The benchmarks measure what a run would do."""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import methods
from benchmarks.throughput import make_store, settings_of, step_costs
from data.images import views

HERE = Path(__file__).resolve().parents[1]


def test_throughput_is_measured_at_the_settings_that_a_run_would_have(tmp_path, monkeypatch):
    monkeypatch.chdir(HERE)
    before = (HERE / "params.yaml").read_text()
    asked = Namespace(preset=["cifar10"], set=["pretrain.encoder.widths=[8, 16]"])
    settings = settings_of(asked, tmp_path)
    assert (settings.data.size, settings.data.channels) == (32, 3)
    assert settings.pretrain.encoder.widths == (8, 16)
    assert (HERE / "params.yaml").read_text() == before


def test_making_views_counts_for_the_real_step_and_not_for_the_bare_one(tmp_path, monkeypatch):
    monkeypatch.chdir(HERE)
    (tmp_path / "settings").mkdir()
    asked = Namespace(preset=[], set=["pretrain.batch_size=16"])
    params = settings_of(asked, tmp_path / "settings").pretrain
    make_views = views.Views.__call__

    def slowly(self, *arguments):
        time.sleep(0.3)
        return make_views(self, *arguments)

    monkeypatch.setattr(views.Views, "__call__", slowly)
    real, bare = step_costs(params, make_store(tmp_path, 28, 1), seconds=0)
    assert bare > 0 and real - bare > 0.15


def bench(monkeypatch, capsys, out, copy, *arguments):
    """What the benchmark of methods prints, in cells of seconds."""
    small = ["pretrain.batch_size=16", "finetune.learner.steps=2", "finetune.label_fraction=0.3"]
    settings = [word for key in small for word in ("--set", key)]
    command = ["methods", "--data", f"tiny={copy}", "--seeds", "1", "--at-once", "1"]
    command += ["--seconds", "0.1", "--out", str(out), *settings, *arguments]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.chdir(HERE)
    methods.main()
    return capsys.readouterr()


@pytest.fixture
def copy(tmp_path):
    """Grey images of two classes, bright and dark."""
    labels = np.arange(80) % 2
    images = np.random.default_rng(0).integers(0, 100, (80, 28, 28), dtype=np.uint8)
    images[labels == 1] += 120
    file = tmp_path / "tiny.npz"
    np.savez(file, train_images=images, train_labels=labels, test_images=images[::-1] + 1,
             test_labels=labels[::-1])  # fmt: skip
    return file


@pytest.mark.slow
def test_methods_are_judged_beside_what_learned_nothing_and_not_twice(
    tmp_path, monkeypatch, capsys, copy
):
    out = tmp_path / "out"
    printed = bench(monkeypatch, capsys, out, copy, "--methods", "rotation,colorization").out
    rows = {tuple(line.split(" | ")[:2]): line for line in printed.splitlines() if "| " in line}
    known = {("| rotation", "CNN"), ("| random encoder", "CNN"), ("| random encoder", "ViT")}
    assert known <= set(rows)
    assert ("| colorization", "CNN") not in rows, "grey images do not suit it"
    kept = sorted(out.rglob("rotation-*.json"))
    numbers = json.loads(kept[0].read_text())
    assert numbers["steps"] >= 1 and numbers["probe_all"] > 0.9, "bright and dark are easy"
    kept[0].write_text(json.dumps(numbers | {"knn": 0.123}))
    assert "| 12.3 |" in bench(monkeypatch, capsys, out, copy, "--methods", "rotation").out
    untrained = next(out.rglob("random-encoder-CNN-*.json"))
    untrained.write_text(json.dumps(json.loads(untrained.read_text()) | {"knn": 0.456}))
    longer = ("--methods", "rotation", "--seconds", "0.2")
    assert "| 45.6 |" in bench(monkeypatch, capsys, out, copy, *longer).out, "no budget changes it"
    rows = len(sorted(out.rglob("rotation-*.json")))
    bench(monkeypatch, capsys, out, copy, "--methods", "rotation", "--set", "pretrain.seed=5")
    assert len(sorted(out.rglob("rotation-*.json"))) == rows + 1, "other settings are another cell"


def test_methods_that_do_not_exist_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        bench(monkeypatch, capsys, tmp_path, "no.npz", "--methods", "simclr,simcrl")
    assert "no methods simcrl" in capsys.readouterr().err
