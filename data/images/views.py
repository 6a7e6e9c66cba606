"""Batches of views for Lightning, the same for any number of workers and after any resume.

Two traps of the usual way are avoided. Workers hold random state, so what they draw depends on how
many they are: here every draw is keyed by epoch and step, which travel inside the batch's key. And
Lightning sets a sampler's epoch after it has built the first iterator, whose workers have by then
fetched batches of epoch 0's order (Lightning-AI/pytorch-lightning issue 21938): here the loader has
no sampler that Lightning could set, and `ViewsDataModule.set_epoch` must be called before `fit`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from data.errors import DataError
from data.images.augment import build_augmenter
from data.images.augment.params import AugmentationParams
from data.randomness import keyed_seed
from data.store.packed_store import PackedStore


class BatchKey(NamedTuple):
    """Names one batch: all that a worker needs to make it."""

    epoch: int
    step: int
    places: np.ndarray


class KeyedBatches:
    """Batch sampler: a permutation keyed by (seed, epoch), the incomplete last batch dropped.

    Images go by their place among those trained on, from 0.

    Each pass is one epoch: its first batch moves on to the next; `set_epoch` says which is next.
    """

    def __init__(self, images: int, batch_size: int, seed: int):
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._images // self._batch_size

    def __iter__(self) -> Iterator[BatchKey]:
        # The epoch is taken now and not at the first batch: Lightning calls hooks in between. It
        # counts as begun at the first batch only: workers make torch call this twice at first.
        return self._batches(self._epoch)

    def _batches(self, epoch: int) -> Iterator[BatchKey]:
        self._epoch = epoch + 1
        random = np.random.default_rng(keyed_seed(self._seed, "permutation", epoch))
        order = random.permutation(self._images)
        for step in range(len(self)):
            start = step * self._batch_size
            yield BatchKey(epoch, step, order[start : start + self._batch_size])


class PackedBatches(Dataset):
    """Gathers a whole batch from the store at once; augments it here if it is told the views."""

    def __init__(self, store: PackedStore, rows: np.ndarray, views: "Views | None"):
        self._store, self._rows, self._views = store, rows, views

    def __getitems__(self, key: BatchKey) -> dict[str, Any]:
        """The batch that `key` names: "index" and "views", or "images" and "key" without them."""
        images = torch.from_numpy(self._store.gather(self._rows[key.places]))
        index = torch.from_numpy(key.places)
        if self._views is None:
            return {"images": images, "index": index, "key": (key.epoch, key.step)}
        return {"views": self._views(images, key.epoch, key.step), "index": index}


class Views:
    """Several independent views of a batch, each keyed by (seed, epoch, step, its number).

    Views of one policy are made in one call, in the order of their numbers.
    """

    def __init__(self, policies: Sequence[AugmentationParams], size: int, channels: int, seed: int):
        self._seed = seed
        numbers: dict[AugmentationParams, list[int]] = {}
        for number, policy in enumerate(policies):
            numbers.setdefault(policy, []).append(number)
        self._numbers = list(numbers.values())
        self._augmenters = [build_augmenter(policy, size, channels) for policy in numbers]

    def __call__(self, images: torch.Tensor, epoch: int, step: int) -> list[torch.Tensor]:
        """A tensor (N, C, S, S) of each view, float32 in [0, 1]."""
        views: dict[int, torch.Tensor] = {}
        for augment, numbers in zip(self._augmenters, self._numbers, strict=True):
            seeds = [keyed_seed(self._seed, "augmentation", epoch, step, n) for n in numbers]
            views.update(zip(numbers, augment(images, *seeds).chunk(len(seeds)), strict=True))
        return [views[number] for number in sorted(views)]


class ViewsDataModule(LightningDataModule):
    """Training batches ``{"views": list of (N, C, S, S) in [0, 1], "index": (N,)}``.

    `index` holds the images' places among `rows`, from 0; a view's S is its policy's.

    The batched engine augments on the device, after the transfer of the uint8 images; the
    albumentations engine in the workers.

    Args:
        store: Where the images are.
        rows: Rows of the store to train on.
        views: How each view of an image is made; all by the same engine.
        batch_size: Images in a batch.
        seed: Decides order and views.
        workers: Processes that prepare batches; they change the speed and nothing else.

    Raises:
        DataError: There are fewer rows than fit into one batch.
    """

    def __init__(
        self,
        store: PackedStore,
        rows: np.ndarray,
        views: Sequence[AugmentationParams],
        batch_size: int,
        seed: int,
        workers: int = 0,
    ):
        super().__init__()
        if len(rows) < batch_size:
            raise DataError(
                f"a batch of {batch_size} images cannot be made of {len(rows)}; lower batch_size."
            )
        manifest = store.manifest
        make_views = Views(views, manifest["size"], manifest["channels"], seed)
        on_device = views[0].engine == "batched"
        self._device_views = make_views if on_device else None
        rows = np.asarray(rows, np.int64)
        self._dataset = PackedBatches(store, rows, None if on_device else make_views)
        self._batches = KeyedBatches(len(rows), batch_size, seed)
        self._workers = workers

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one; call it before `fit` with the epoch to resume at.

        Passes over the loader count on from there.
        """
        self._batches.set_epoch(epoch)

    def train_dataloader(self) -> DataLoader:
        """A loader of one epoch's batches; each pass over it is the next epoch."""
        return DataLoader(
            self._dataset,
            batch_sampler=self._batches,  # type: ignore[arg-type]
            collate_fn=_as_it_is,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the views, if that is left to the device."""
        if self._device_views is None or "images" not in batch:
            return batch
        views = self._device_views(batch["images"], *batch["key"])
        return {"views": views, "index": batch["index"]}


def _as_it_is(batch: Any) -> Any:
    return batch
