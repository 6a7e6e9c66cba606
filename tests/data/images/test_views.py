import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from data.errors import DataError
from data.images.augment import batched, build_augmenter
from data.images.augment.params import AugmentationParams
from data.images.views import Views, ViewsDataModule
from data.randomness import keyed_seed

ENGINES = ("batched", "albumentations")
POLICY = {"crop_scale": (0.3, 1.0), "hflip": 0.5, "brightness": 0.4, "noise": 0.02}
LOCAL = {"view_size": 8, "crop_scale": (0.1, 0.3)}


def policies(engine, local=2):
    """Two views and some small crops."""
    policy = AugmentationParams(engine=engine, **POLICY)
    return [policy] * 2 + [policy.model_copy(update=LOCAL)] * local


def datamodule(store, engine="batched", workers=0, seed=3, batch_size=16):
    rows = store.rows("train")
    return ViewsDataModule(store, rows, policies(engine), batch_size, seed, workers)


def epochs(module, count):
    """Batches of `count` passes over one loader, as a training sees them."""
    loader = module.train_dataloader()
    return [[module.on_after_batch_transfer(b, 0) for b in loader] for _ in range(count)]


def assert_equal_batches(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert all(torch.equal(a, b) for a, b in zip(one["views"], other["views"], strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_do_not_depend_on_the_number_of_workers(numbered_store, engine):
    alone = epochs(datamodule(numbered_store, engine, workers=0), 3)
    for workers in (1, 2):
        for one, other in zip(
            alone, epochs(datamodule(numbered_store, engine, workers), 3), strict=True
        ):
            assert_equal_batches(one, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_epoch_equals_the_uninterrupted_one(numbered_store, engine):
    uninterrupted = epochs(datamodule(numbered_store, engine), 3)
    resumed = datamodule(numbered_store, engine)
    resumed.set_epoch(2)
    assert_equal_batches(uninterrupted[2], epochs(resumed, 1)[0])


def test_an_epoch_shows_every_image_at_most_once_in_a_new_order(numbered_store):
    first, second = (
        torch.cat([batch["index"] for batch in epoch])
        for epoch in epochs(datamodule(numbered_store), 2)
    )
    for order in (first, second):
        assert len(order) == 80 == len(order.unique())
        assert order.dtype == torch.int64
        assert order.min() >= 0 and order.max() < 90
    assert not torch.equal(first, second)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_views_are_of_the_image_in_the_named_place_and_differ(numbered_store, engine):
    noisy = AugmentationParams(engine=engine, noise=0.01)
    views = [noisy, noisy, *[noisy.model_copy(update=LOCAL)] * 2]
    rows = numbered_store.rows("train")[::-2]
    for batch in epochs(ViewsDataModule(numbered_store, rows, views, 16, 0), 1)[0]:
        expected = numbered_store.gather(rows[batch["index"].numpy()]).mean(axis=(1, 2, 3))
        assert len(np.unique(expected)) == 16
        assert [view.shape[2] for view in batch["views"]] == [16, 16, 8, 8]
        for view in batch["views"]:
            assert np.allclose(view.mean(dim=(1, 2, 3)) * 255, expected, atol=0.95)
        for first, second in (batch["views"][:2], batch["views"][2:]):
            assert not torch.equal(first, second)


@pytest.mark.parametrize("engine", ENGINES)
def test_views_are_the_same_beside_any_others(numbered_store, engine):
    """A view is keyed by its number alone, and made as if it were made alone."""
    images = torch.from_numpy(numbered_store.gather(numbered_store.rows("train")[:20]))
    together = Views(policies(engine, local=3), 16, 1, seed=3)(images, epoch=1, step=2)
    two = Views(policies(engine, local=0), 16, 1, seed=3)(images, epoch=1, step=2)
    for number, (view, policy) in enumerate(zip(together, policies(engine, 3), strict=True)):
        seed = keyed_seed(3, "augmentation", 1, 2, number)
        assert torch.equal(view, build_augmenter(policy, 16, 1)(images, seed)), number
        assert view.is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, together[:2], two))


def test_crops_of_one_policy_are_resampled_in_one_pass(numbered_store, monkeypatch):
    images = torch.from_numpy(numbered_store.gather(numbered_store.rows("train")[:20]))
    passes = []
    warp = batched.warp
    monkeypatch.setattr(
        batched, "warp", lambda views, *rest: passes.append(len(views)) or warp(views, *rest)
    )
    Views(policies("batched", local=4), 16, 1, seed=0)(images, 0, 0)
    assert passes == [2 * 20, 4 * 20]


def test_another_seed_gives_another_order_and_other_views(numbered_store):
    one, other = (epochs(datamodule(numbered_store, seed=seed), 1)[0] for seed in (3, 4))
    assert not torch.equal(one[0]["index"], other[0]["index"])


def test_fewer_images_than_a_batch_is_an_error(numbered_store):
    with pytest.raises(DataError, match="a batch of 91 images cannot be made of 90"):
        datamodule(numbered_store, batch_size=91)


class Witness(LightningModule):
    """Learns nothing, remembers what it was shown in each epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def training_step(self, batch, _):
        shown = self.seen.setdefault(self.current_epoch, [])
        shown.append(
            (batch["index"].tolist(), [float(view.double().sum()) for view in batch["views"]])
        )
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(module, until, folder, resume=None):
    witness = Witness()
    trainer = Trainer(
        max_epochs=until, default_root_dir=folder, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(witness, datamodule=module, ckpt_path=resume, weights_only=resume and True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return witness.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_resumed_by_lightning_sees_what_an_uninterrupted_one_sees(
    numbered_store, tmp_path, workers
):
    whole = train(datamodule(numbered_store, workers=workers), 4, tmp_path)
    train(datamodule(numbered_store, workers=workers), 2, tmp_path)
    resumed = datamodule(numbered_store, workers=workers)
    resumed.set_epoch(2)
    rest = train(resumed, 4, tmp_path, resume=tmp_path / "last.ckpt")
    assert sorted(whole) == [0, 1, 2, 3] and sorted(rest) == [2, 3]
    assert rest == {epoch: whole[epoch] for epoch in (2, 3)}
    assert len({str(shown) for shown in whole.values()}) == 4
