"""What a pretraining that was cut short leaves, and what the next one makes of it."""

import json
import os
from pathlib import Path

import pytest
import torch

from models.errors import ModelError
from models.methods.contrastive.simclr import SimCLR
from tasks.stages import pretrain as pretraining
from tasks.stages.checkpoints import newest_checkpoint
from tasks.stages.pretrain import Speedometer, pretrain
from tasks.system.atomic_files import keep
from tests.tasks.small_stages import make_stage, prepare

EPOCHS, STEPS = 5, 3
CROPS = {"local_views": 2, "local_size": 8}
ENGINES = ("batched", "albumentations")


@pytest.fixture(autouse=True)
def _prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()


def run_for(steps=None, **changes):
    """Run the stage, cut short at a step if one is given; all bytes that it has put out."""
    run = make_stage("pretrain", epochs=EPOCHS, **changes)
    with pytest.MonkeyPatch.context() as patch:
        if steps is not None:
            patch.setattr(Speedometer, "on_train_batch_end", _ender(steps))
            with pytest.raises(InterruptedError):
                pretrain(run)
        else:
            pretrain(run)
    outputs = {path.name: path.read_bytes() for path in run.out.iterdir()}
    for path in run.out.iterdir():
        path.unlink()
    run.out.rmdir()
    return outputs


def _ender(steps):
    def end(self, trainer, *_):
        if trainer.global_step == steps:
            raise InterruptedError

    return end


def saved():
    """Names of the checkpoints without their checksums."""
    names = os.listdir(".instar/checkpoints/pretrain-key")
    return sorted(name.split(".")[0] + name[-5:] for name in names if "epoch" in name)


def notes():
    events = [json.loads(line) for line in Path("pretrain.jsonl").read_text().splitlines()]
    return [event["message"] for event in events if event["event"] == "note"]


def clear():
    for path in Path(".instar/checkpoints/pretrain-key").iterdir():
        path.unlink()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_run_cut_short_goes_on_to_the_same_bytes(engine, workers):
    augmentation = {"engine": engine, "crop_scale": [0.5, 1.0]}
    whole = run_for(augmentation=augmentation)
    clear()
    assert run_for(steps=8, augmentation=augmentation, workers=workers) == {}
    # 2 epochs of 3 steps are done; the other number of workers goes on.
    assert run_for(augmentation=augmentation, workers=2 - workers) == whole
    assert notes() == [f"resuming after epoch 2 of {EPOCHS}"]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "moco-v2", "queue": 40, "momentum": 0.9},
        {"name": "byol", "momentum": 0.9},
        {"name": "nnclr", "support": 40},
        {"name": "lejepa"},
        {"name": "swav", "prototypes": 12, "frozen_steps": 7, **CROPS},
        {"name": "dino", "prototypes": 12, "frozen_steps": 7, "momentum": 0.9, **CROPS},
        {"name": "deepcluster-v2", "clusters": 5, **CROPS},
    ],
    ids=lambda method: method["name"],
)
def test_teachers_queues_banks_and_draws_of_a_run_cut_short_go_on_as_they_were(method):
    whole = run_for(method=method)
    clear()
    assert run_for(steps=8, method=method) == {}
    assert run_for(method=method) == whole
    assert notes() == [f"resuming after epoch 2 of {EPOCHS}"]


def test_resumed_journal_holds_the_epochs_before_too():
    run_for(steps=8)
    os.rename("pretrain.jsonl", "first.jsonl")
    run_for()
    events = [json.loads(line) for line in Path("pretrain.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "metrics"]
    assert steps == [1, 2, 3, 4, 5], "a new MLflow run would lack them"


def test_run_cut_short_after_its_last_epoch_repeats_none(monkeypatch):
    whole = run_for()
    clear()
    run = make_stage("pretrain", epochs=EPOCHS)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "save_weights", _raise_interrupted)
        with pytest.raises(InterruptedError):
            pretrain(run)
    Path("artifacts/pretrain").rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "training_step", None)
        assert run_for() == whole
    assert notes() == [f"resuming after epoch {EPOCHS} of {EPOCHS}"]


def _raise_interrupted(*_):
    raise InterruptedError


def test_damaged_checkpoint_is_told_of_and_the_one_before_it_used(capsys):
    whole = run_for()
    clear()
    run_for(steps=4 * STEPS + 1)
    assert saved() == ["epoch-000003.ckpt", "epoch-000004.ckpt"], "the last two are kept"
    newest = newest_checkpoint(Path(".instar/checkpoints/pretrain-key"), print)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert run_for() == whole
    warning, resumed = notes()
    assert warning.startswith("warning: ") and f"{newest}.damaged" in warning
    assert resumed == f"resuming after epoch 3 of {EPOCHS}"
    assert warning in capsys.readouterr().err
    assert Path(f"{newest}.damaged").exists()


def test_without_a_whole_checkpoint_a_run_starts_anew():
    whole = run_for()
    clear()
    run_for(steps=4 * STEPS + 1)
    for path in Path(".instar/checkpoints/pretrain-key").glob("*.ckpt"):
        path.write_bytes(b"")
    assert run_for() == whole
    assert [note.split()[0] for note in notes()] == ["warning:", "warning:"]


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state_dict": Planted()}, "planted.pt")
    folder = Path(".instar/checkpoints/pretrain-key")
    keep(folder / "epoch-000001.ckpt", Path("planted.pt").read_bytes())
    with pytest.raises(Exception, match="(?i)weights.only"):
        pretrain(make_stage("pretrain", epochs=EPOCHS))
    assert not Path("planted").exists()


def breaking(after, how):
    """SimCLR that goes wrong after some steps, as with too high a learning rate."""
    healthy, steps = SimCLR.training_step, iter(range(10_000))

    def training_step(self, batch):
        output = healthy(self, batch)
        if next(steps) >= after:
            how(self, output)
        return output

    return training_step


def lose_the_number(method, output):
    output["loss"] = output["loss"] * float("nan")


def break_a_weight(method, output):
    output["loss"] = output["loss"] + 0 * method.projector[-1].weight.sum() * float("inf")
    output["loss"] = torch.nan_to_num(output["loss"])


def make_all_alike(method, output):
    for weight in method.encoder.parameters():
        weight.data.zero_()
    output["loss"] = 0 * output["loss"]


@pytest.mark.parametrize(
    ("after", "how", "said"),
    [
        (7, lose_the_number, "pretraining diverged: the loss is nan at step"),
        (8, break_a_weight, "pretraining diverged: after epoch 3 method.projector"),
        (8, make_all_alike, "pretraining collapsed: after epoch 3"),
    ],
)
def test_training_that_goes_wrong_keeps_its_last_healthy_checkpoint(monkeypatch, after, how, said):
    monkeypatch.setattr(SimCLR, "training_step", breaking(after, how))
    with pytest.raises(ModelError) as caught:
        pretrain(make_stage("pretrain", epochs=EPOCHS))
    message = str(caught.value)
    assert message.startswith(said)
    assert "lower pretrain.optimizer.lr" in message and "changed ones start again" in message
    assert saved() == ["epoch-000001.ckpt", "epoch-000002.ckpt"]
    kept = newest_checkpoint(Path(".instar/checkpoints/pretrain-key"), print)
    assert f"kept: epoch 2, {kept}. " in message
    state = torch.load(kept, weights_only=True)["state_dict"]
    assert all(values.isfinite().all() for values in state.values())


def test_training_that_was_never_healthy_says_that_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(SimCLR, "training_step", breaking(0, lose_the_number))
    with pytest.raises(ModelError, match="never ended an epoch healthy, so no checkpoint"):
        pretrain(make_stage("pretrain", epochs=EPOCHS))
