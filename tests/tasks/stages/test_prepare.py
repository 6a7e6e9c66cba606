"""The stage prepare stops before any training, and leaves what tells why."""

import csv
import json
import subprocess

import numpy as np
import pytest

from tasks.settings.editing import change_settings
from tasks.stages.context import stage
from tasks.stages.prepare import prepare
from tasks.versioning.dvc import dvc_command, dvc_environment
from tests.e2e.tiny_project import environment, make_tiny_project


def write_spoilt(path, spoilt):
    """60 images, so many of which hold a NaN."""
    images = np.random.default_rng(0).random((60, 8, 8), np.float32)
    images[:spoilt, 3, 3] = np.nan
    np.savez(path, train_images=images, train_labels=np.arange(60) % 2)


def run_prepare():
    with stage("prepare") as run:
        prepare(run)


def test_too_much_quarantined_ends_the_stage_and_the_table_is_left(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    write_spoilt(project / "data/raw/images.npz", 7)
    with pytest.raises(SystemExit, match="1"):
        run_prepare()
    said = capsys.readouterr().err.splitlines(keepends=True)[-1]
    (table,) = (project / ".instar" / "quarantine").iterdir()
    assert f".instar/quarantine/{table.name} names each" in said
    assert said.startswith("error: 7 of 60 images (11.7%)")
    assert (project / ".instar/errors/prepare.txt").read_text() == said.removeprefix("error: ")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [f"train_images/{n:07d}" for n in range(7)]
    assert {row["reason"] for row in rows} == {"holds NaN or infinite values"}
    assert not list((project / "artifacts" / "prepare").iterdir())


def test_what_is_quarantined_is_counted_in_the_summary(project, monkeypatch):
    monkeypatch.chdir(project)
    write_spoilt(project / "data/raw/images.npz", 5)
    run_prepare()
    summary = json.loads((project / "artifacts/prepare/summary.json").read_text())
    assert summary["quarantined"] == 5
    assert summary["reasons"] == {"holds NaN or infinite values": 5}
    assert not (project / ".instar" / "quarantine").exists()


@pytest.mark.slow
def test_dvc_trains_nothing_on_spoilt_data_and_goes_on_when_it_is_allowed(tmp_path):
    project = make_tiny_project(tmp_path / "tiny")
    write_spoilt(project / "digits.npz", 20)

    def repro(*arguments):
        return subprocess.run(
            dvc_command(["repro", *arguments]),
            cwd=project,
            env=environment(project) | {"PATH": dvc_environment()["PATH"]},
            capture_output=True,
            text=True,
        )

    refused = repro()
    assert refused.returncode != 0 and "20 of 60 images (33.3%)" in refused.stderr
    assert not (project / "artifacts" / "pretrain").exists()
    (table,) = (project / ".instar" / "quarantine").iterdir()
    assert len(table.read_text().splitlines()) == 21
    change_settings(project, ["data.max_quarantined=0.5"])
    allowed = repro("prepare")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads((project / "artifacts/prepare/summary.json").read_text())["quarantined"] == 20
    assert table.exists()
