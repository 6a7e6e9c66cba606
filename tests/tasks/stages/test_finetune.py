"""The stage on a few tiny images, in its real worker processes."""

import json
import os
import platform
import re
import shutil
from pathlib import Path

import pytest
import torch

from tasks.errors import TaskError
from tasks.stages import finetune as finetuning
from tasks.stages import parallel_fits
from tasks.stages.finetune import finetune
from tasks.stages.parallel_fits import Fit, fit_all
from tests.tasks.small_stages import make_stage

pytestmark = pytest.mark.usefixtures("pretrained")

FITS = ["pretrained, draw 1", "scratch, draw 1", "pretrained, draw 2", "scratch, draw 2"]


class KilledOnArrival:
    """Ends the process that unpickles it, as the kernel does when memory runs out."""

    def __reduce__(self):
        return os._exit, (137,)


def test_the_journal_holds_a_curve_of_each_fit():
    run = make_stage("finetune")
    finetune(run)
    events = [json.loads(line) for line in Path("finetune.jsonl").read_text().splitlines()]
    curves = [event for event in events if event["event"] == "metrics"]
    for name in ("pretrained/loss_draw_1", "scratch/loss_draw_2"):
        losses = {
            event["step"]: event["values"][name] for event in curves if name in event["values"]
        }
        assert list(losses) == list(range(1, 21)) and all(0 < loss < 5 for loss in losses.values())


def test_progress_tells_step_and_loss_of_a_fit_and_how_far_all_are(monkeypatch):
    monkeypatch.setattr(parallel_fits, "LOOK_EVERY", 0.005)
    run, told = make_stage("finetune"), []
    monkeypatch.setattr(run, "progress", lambda *shown: told.append(shown))
    finetune(run)
    assert told[0] == ("learning from labels", 0, 80)
    assert told[-1] == ("learned from labels", 80, 80)
    whats, done, totals, shown = zip(*told[1:-1], strict=True)
    assert list(done) == sorted(done) and set(totals) == {80}
    assert set(whats) <= set(FITS) and whats[0] == FITS[0]
    # A log gets a line for each change: fits side by side must not take turns.
    assert sorted(whats, key=FITS.index) == list(whats)
    parts = [re.fullmatch(r"step (\d+)/20 · loss (\d\.\d\d)", text) for text in shown if text]
    assert len({part[1] for part in parts}) > 2
    assert all(0 < float(part[2]) < 5 for part in parts)


def test_number_of_workers_changes_no_byte():
    for workers in (1, 2):
        run = make_stage("finetune", workers=workers)
        finetune(run)
        os.rename(run.out, f"with-{workers}")
    files = sorted(p for p in run.out.parents[1].glob("with-1/**/*") if p.is_file())
    assert len(files) == 7
    for path in files:
        other = Path(path.as_posix().replace("with-1", "with-2"))
        assert path.read_bytes() == other.read_bytes(), path


def test_later_stages_learn_what_the_classifiers_are_and_no_more():
    run = make_stage("finetune", draws=1)
    finetune(run)
    learned = json.loads((run.out / "learners.json").read_text())
    assert learned["encoder"]["stem_width"] == 4
    assert "pretraining" not in learned
    # Which machine decides the last bits; its name does not.
    assert learned["machine"]["torch"] == torch.__version__
    assert learned["machine"]["device"].startswith(f"cpu {platform.machine()}")
    assert platform.node() not in json.dumps(learned["machine"])


def test_killed_worker_is_explained_and_nothing_waits_for_it(tmp_path):
    params = make_stage("finetune").params.finetune
    fits = [
        Fit("scratch", draw, 0, KilledOnArrival(), params, tmp_path, tmp_path) for draw in range(3)
    ]
    with pytest.raises(TaskError, match=r"want of memory: lower finetune.workers"):
        list(fit_all(fits, 2, print, print))


def outputs(run):
    files = {p.relative_to(run.out): p.read_bytes() for p in run.out.rglob("*") if p.is_file()}
    shutil.rmtree(run.out)
    return files


def cut_short(monkeypatch, **changes):
    """A run whose fits are all done and kept, but which ended before its results were written."""
    run = make_stage("finetune", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "_describe", _fail)
        with pytest.raises(InterruptedError):
            finetune(run)
    shutil.rmtree(run.out)
    return sorted(run.scratch.glob("*.zip"))


def _fail(*_):
    raise InterruptedError


def notes():
    events = [json.loads(line) for line in Path("finetune.jsonl").read_text().splitlines()]
    return [event["message"] for event in events if event["event"] == "note"]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_only_fits_that_are_not_kept_are_run_and_the_bytes_are_the_same(monkeypatch, damage):
    run = make_stage("finetune")
    finetune(run)
    shutil.rmtree(run.scratch)
    whole = outputs(run)
    kept = cut_short(monkeypatch)
    assert [path.name.split(".")[0] for path in kept] == [
        "pretrained-0", "pretrained-1", "scratch-0", "scratch-1",
    ]  # fmt: skip
    if damage == "missing":
        kept[1].unlink()
    else:
        kept[1].write_bytes(kept[1].read_bytes()[:-100])
    run, told, submitted = make_stage("finetune"), [], []
    submit = parallel_fits.ProcessPoolExecutor.submit
    monkeypatch.setattr(
        parallel_fits.ProcessPoolExecutor,
        "submit",
        lambda pool, what, fit, place: (
            submitted.append(fit.weights) or submit(pool, what, fit, place)
        ),
    )
    monkeypatch.setattr(parallel_fits, "LOOK_EVERY", 0.005)
    monkeypatch.setattr(run, "progress", lambda *shown: told.append(shown))
    finetune(run)
    assert submitted == ["classifiers/pretrained-1.safetensors"]
    assert outputs(run) == whole
    assert notes()[-1] == "resuming with 3 of 4 fits done"
    assert all(done >= 60 for _, done, *_ in told[1:]), "what is kept counts as done"
    if damage == "cut":
        assert "pretrained-1" in notes()[0] and ".damaged" in notes()[0]
        assert kept[1].with_name(f"{kept[1].name}.damaged").exists()


def test_curves_of_kept_fits_are_in_the_journal_of_the_run_that_goes_on(monkeypatch):
    cut_short(monkeypatch, draws=1)
    os.rename("finetune.jsonl", "first.jsonl")
    finetune(make_stage("finetune", draws=1))
    metrics = [
        list(map(json.loads, Path(name).read_text().splitlines()))
        for name in ("first.jsonl", "finetune.jsonl")
    ]
    first, second = (
        sorted((e["step"], *e["values"].items()) for e in events if e["event"] == "metrics")
        for events in metrics
    )
    assert first == second and len(first) == 40
