"""The training loop around any self-supervised method."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR

from models.methods.method import Method, StepOutput
from models.optimizers import build_optimizer, decay_groups
from models.params import OptimizerParams
from models.randomness import seeded
from models.schedules import warmup_cosine


class Pretraining(LightningModule):
    """Optimises a method; logs the mean `loss` and the last `lr` of each epoch.

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
        self._losses = torch.zeros(())

    def training_step(self, batch: dict, batch_idx: int) -> StepOutput:
        """Give the method's output for the batch, embeddings detached."""
        with seeded(self.seed, "step", self.global_step):
            output = self.method.training_step(batch)
        # Summed here, on the device, and logged once: Lightning's log at each step is slow.
        self._losses = self._losses + output["loss"].detach()
        if self.trainer.is_last_batch:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            numbers = {"loss": self._losses / (batch_idx + 1), "lr": rate}
            self.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1)
            self._losses = torch.zeros(())
        if "embeddings" in output:
            output["embeddings"] = output["embeddings"].detach()
        return output

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and its schedule, stepped with every batch."""
        params = self.optimizer_params
        groups = decay_groups(self.method, params.lr, params.weight_decay)
        optimizer = build_optimizer(params.name, groups)
        schedule = LambdaLR(
            optimizer, lambda step: warmup_cosine(step, self.total_steps, self.warmup_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
