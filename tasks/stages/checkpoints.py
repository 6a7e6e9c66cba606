"""Lightning's checkpoints, one an epoch: whole, checked when read, the last two kept.

Lightning's own saving copies a finished temporary file over from the system's temporary folder,
which may lie on another disk: a run killed meanwhile leaves half a checkpoint under the right name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from tasks.system.atomic_files import keep, kept

# Epochs in the name are those done.
_NAME = "epoch-{:06d}.ckpt"
_EVERY = "epoch-*.ckpt"
_KEPT = 2


class WholeFiles(TorchCheckpointIO):
    """Saves a checkpoint through `atomic_files.keep`; loads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write it, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        keep(Path(path), buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read it without running any code that it may hold, whatever the caller allows."""
        return super().load_checkpoint(path, map_location, weights_only=True)


class EpochCheckpoints(Checkpoint):
    """Saves the state after each epoch, and forgets all but the last two.

    As a `Checkpoint` it comes after every other callback, so an epoch whose end a monitor
    refuses is never saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, then remove: there is always a whole one."""
        trainer.save_checkpoint(self.folder / _NAME.format(trainer.current_epoch + 1))
        for old in sorted(self.folder.glob(_EVERY))[:-_KEPT]:
            old.unlink()


def newest_checkpoint(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The last whole checkpoint; damaged ones on the way are set aside and noted."""
    return next(kept(folder / _EVERY, note), None)


def epochs_done(checkpoint: Path) -> int:
    """How many epochs were behind the run when it was saved."""
    return int(checkpoint.name.split(".")[0].removeprefix("epoch-"))
