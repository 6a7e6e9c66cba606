"""The benchmarks measure what a run would do."""

from argparse import Namespace
from pathlib import Path

from benchmarks.throughput import settings_of

HERE = Path(__file__).resolve().parents[1]


def test_throughput_is_measured_at_the_settings_that_a_run_would_have(tmp_path, monkeypatch):
    monkeypatch.chdir(HERE)
    before = (HERE / "params.yaml").read_text()
    asked = Namespace(preset=["cifar10"], set=["pretrain.encoder.widths=[8, 16]"])
    settings = settings_of(asked, tmp_path)
    assert (settings.data.size, settings.data.channels) == (32, 3)
    assert settings.pretrain.encoder.widths == (8, 16)
    assert (HERE / "params.yaml").read_text() == before
