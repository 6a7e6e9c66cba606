"""The training loop around any self-supervised method."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from models.methods.base import Method, StepOutput
from models.training.optimizers import build_optimizer, decay_groups
from models.training.params import OptimizerParams
from models.training.randomness import seeded
from models.training.schedules import warmup_cosine


class Pretraining(LightningModule):
    """Optimises a method; logs each epoch's last `lr`, mean `loss` and mean metrics of the method.

    Args:
        method: What is trained; its encoder is the result.
        optimizer: How.
        epochs: Length of the run, which shapes the schedule.
        steps_per_epoch: Batches an epoch.
        seed: Together with the step, fixes dropout and masks, so that a resumed run goes on as
            the uninterrupted one would have.
    """

    def __init__(
        self,
        method: Method,
        optimizer: OptimizerParams,
        epochs: int,
        steps_per_epoch: int,
        seed: int,
    ):
        super().__init__()
        self.method = method
        self.optimizer_params = optimizer
        self.total_steps = epochs * steps_per_epoch
        self.warmup_steps = round(optimizer.warmup_epochs * steps_per_epoch)
        self.seed = seed
        self._sums: dict[str, Tensor] = {}

    def on_train_epoch_start(self) -> None:
        """Let the method prepare; on a resume from what the checkpoint brought back."""
        with seeded(self.seed, "epoch", self.current_epoch):
            self.method.before_epoch()

    def training_step(self, batch: dict, batch_idx: int) -> StepOutput:
        """Give the method's output for the batch, embeddings detached."""
        with seeded(self.seed, "step", self.global_step):
            output = self.method.training_step(batch)
        # Summed here, on the device, and logged once: Lightning's log at each step is slow.
        for name, value in {"loss": output["loss"], **output.get("metrics", {})}.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach()
        if self.trainer.is_last_batch:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            means = {name: total / (batch_idx + 1) for name, total in self._sums.items()}
            self.log_dict(means | {"lr": rate}, on_step=False, on_epoch=True, batch_size=1)
            self._sums = {}
        if "embeddings" in output:
            output["embeddings"] = output["embeddings"].detach()
        return output

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the method follow the optimizer's step, which `global_step` counts already."""
        self.method.after_step((self.global_step - 1) / self.total_steps)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and its schedule, stepped with every batch."""
        params = self.optimizer_params
        groups = decay_groups(self.method, params.lr, params.weight_decay)
        optimizer = build_optimizer(params.name, groups)
        schedule = LambdaLR(
            optimizer, lambda step: warmup_cosine(step, self.total_steps, self.warmup_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
