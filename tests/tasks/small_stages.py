"""The stages pretrain and finetune on a few tiny images, each within this process."""

import numpy as np

from data.packing.pack import pack
from data.sources.params import DataParams
from tasks.layout import ARTIFACTS, STATE
from tasks.settings.loading import validate_params
from tasks.stages.context import Stage
from tasks.stages.progress import StageProgress
from tasks.tracking.journal import Journal

SETTINGS = {
    "data": {"source": "npz", "path": "images.npz", "size": 8, "channels": 1},
    "pretrain": {
        "encoder": {"stem_width": 4, "widths": [8], "blocks": [1], "strides": [2]},
        "method": {"name": "simclr", "projector_hidden": 8, "projector_dim": 8},
        "augmentation": {"crop_scale": [0.5, 1.0]},
        "epochs": 1,
        "batch_size": 16,
        "probe_fraction": 0.5,
        "threads": 1,
    },
    "finetune": {
        "label_fraction": 0.5,
        "draws": 2,
        "abstain_target": 0.0,
        "learner": {"name": "finetune", "steps": 20, "warmup_steps": 0, "batch_size": 8},
    },
}


def prepare():
    """Pack 48 images of three classes, bright in different rows, into ./artifacts/prepare."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = random.integers(0, 120, (60, 8, 8), dtype=np.uint8)
    images[np.arange(60), 2 * labels] += 120
    np.savez(
        "images.npz",
        train_images=images[:48], train_labels=labels[:48],
        test_images=images[48:], test_labels=labels[48:],
    )  # fmt: skip
    (ARTIFACTS / "prepare").mkdir(parents=True)
    pack(DataParams.model_validate(SETTINGS["data"]), ARTIFACTS / "prepare")


def make_stage(name, **changes):
    """The stage as `context.stage` gives it, with some settings of its group changed."""
    params = validate_params({**SETTINGS, name: {**SETTINGS[name], **changes}})
    scratch = STATE / "checkpoints" / f"{name}-key"
    run = Stage(name, "key", params, Journal(f"{name}.jsonl"), StageProgress(name), scratch)
    run.out.mkdir(parents=True)
    return run
