"""Lightning callbacks that watch a pretraining: collapse, an online kNN, and the history.

Numbers go to `trainer.callback_metrics` through the module's log. Order the callbacks with
`EpochHistory` last, so that its rows hold what the others measured.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from models.encoders.feature_metrics import feature_std, knn_accuracy, rankme
from models.encoders.features import extract_features
from models.encoders.images.encoder import Encoder
from models.errors import UnhealthyError

_REMEDY = "lower pretrain.optimizer.lr, raise batch_size, or weaken pretrain.augmentation"


class CollapseMonitor(Callback):
    """Measures rank and spread of features and embeddings, and stops a run that has collapsed.

    Label-free: encoder features of fixed images (`rankme`, `feature_std`), and the embeddings of
    the epoch's last batch (`embedding_rank`, `embedding_std`), where a collapse of the head shows
    first. Rank and spread see different ones: all embeddings near one point, or all on one line,
    where a last batch norm holds their spread up. A loss that is not a number stops the run within
    `every` steps, a weight that is none at the end of the epoch: callbacks that save must come
    after this one, then what they saved last is healthy.

    Args:
        images: uint8 (N, H, W, C) or float (N, C, H, W) in [0, 1]; some hundreds do.
        min_spread: Collapse is a spread below this share of the healthy 1/sqrt(D).
        min_rank: Collapse is a rankme below this; all images on one line have 1.
        min_embedding_rank: Collapse is an embedding_rank below this; higher, since augmentation
            adds some noise to a line. Where there are fewer than `ENOUGH` embeddings or
            dimensions, a low rank is not a sign.
        every: Steps between looks at the loss; each look waits for the device.

    Raises:
        UnhealthyError: Out of `trainer.fit`, saying what was measured and what to try.
    """

    ENOUGH = 8

    def __init__(
        self,
        images: Tensor,
        min_spread: float = 0.01,
        min_rank: float = 1.05,
        min_embedding_rank: float = 1.2,
        every: int = 20,
    ):
        self.images = images
        self.min_spread = min_spread
        self.min_rank = min_rank
        self.min_embedding_rank = min_embedding_rank
        self.every = every
        self._embeddings: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last embeddings, and look at the loss now and then."""
        self._embeddings = outputs.get("embeddings")
        if batch_idx % self.every == 0 or trainer.is_last_batch:
            loss = float(outputs["loss"])
            if not math.isfinite(loss):
                raise UnhealthyError(
                    f"pretraining diverged: the loss is {loss} at step {trainer.global_step} "
                    f"(epoch {trainer.current_epoch + 1}); {_REMEDY}"
                )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log, and stop on collapse."""
        epoch = trainer.current_epoch + 1
        features = extract_features(_encoder(pl_module), self.images)
        for name, values in {**pl_module.state_dict(), "features": features}.items():
            if not values.isfinite().all():
                raise UnhealthyError(
                    f"pretraining diverged: after epoch {epoch} {name} holds what is not a number; "
                    f"{_REMEDY}"
                )
        self._judge(pl_module, epoch, features, "rankme", "feature_std", self.min_rank)
        if (embeddings := self._embeddings) is not None:
            least = self.min_embedding_rank if min(embeddings.shape) >= self.ENOUGH else 0.0
            self._judge(pl_module, epoch, embeddings, "embedding_rank", "embedding_std", least)

    def _judge(
        self,
        module: LightningModule,
        epoch: int,
        values: Tensor,
        rank_name: str,
        spread_name: str,
        least: float,
    ) -> None:
        rank, spread = rankme(values), feature_std(values)
        module.log(rank_name, rank)
        module.log(spread_name, spread)
        if rank < least:
            raise UnhealthyError(
                f"pretraining collapsed: after epoch {epoch} {rank_name} is {rank:.3g} "
                f"of {values.shape[1]}, so all images share one direction; {_REMEDY}"
            )
        healthy = values.shape[1] ** -0.5
        if not spread >= self.min_spread * healthy:
            raise UnhealthyError(
                f"pretraining collapsed: after epoch {epoch} {spread_name} is "
                f"{spread:.3g}, where {healthy:.3g} is healthy, so all images look alike to "
                f"the encoder; {_REMEDY}"
            )


class OnlineKNN(Callback):
    """Logs `knn`: how well the few labelled images predict each other, each epoch.

    The labels judge and never train.

    Args:
        images: uint8 (N, H, W, C) or float (N, C, H, W) in [0, 1], all labelled.
        labels: (N,) int64.
        k: Neighbours that vote.
    """

    def __init__(self, images: Tensor, labels: Tensor, k: int = 20):
        self.images = images
        self.labels = labels
        self.k = k

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, let the others vote on each image, log the share that is right."""
        features = extract_features(_encoder(pl_module), self.images)
        pl_module.log("knn", knn_accuracy(features, self.labels, k=self.k))


class EpochHistory(Callback):
    """Collects one row of numbers an epoch; the rows travel with Lightning's checkpoints.

    Attributes:
        rows: `{"epoch": 0, "loss": ..., "lr": ..., ...}`, from the first epoch on.

    Args:
        on_epoch: Called with each new row, and with those that a checkpoint brings back.
    """

    def __init__(self, on_epoch: Callable[[dict[str, float]], None] | None = None):
        self.rows: list[dict[str, float]] = []
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what the module and the other callbacks logged."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch} | measured
        self._add(row)

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rows of the epochs before a resume."""
        self.rows = []
        for row in state_dict["rows"]:
            self._add(row)

    def _add(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        if self.on_epoch is not None:
            self.on_epoch(row)


def _encoder(module: LightningModule) -> Encoder:
    return module.method.encoder  # type: ignore[union-attr,return-value]
