import warnings

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from models.encoders.weights import save_weights
from models.errors import ModelError
from models.methods import SimCLRParams, build_method
from models.methods.base import Method
from models.pretraining.callbacks import CollapseMonitor, EpochHistory, OnlineKNN
from models.pretraining.module import Pretraining
from models.training.optimizers import build_optimizer, decay_groups
from models.training.params import OptimizerParams
from models.training.schedules import warmup_cosine
from tests.models.easy_images import easy_images, plain_augment, small_encoder

EPOCHS, STEPS = 3, 4


class Views(torch.utils.data.Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        images, _ = easy_images(32, seed=index)
        return {"views": [plain_augment(images, 2 * index + view) for view in range(2)]}


class Collapsing(Method):
    """Wants all features alike, which a contrast would forbid."""

    def __init__(self, encoder, factor=1.0):
        super().__init__(encoder)
        self.factor = factor

    def training_step(self, batch):
        features = self.encoder(batch["views"][0])
        target = torch.ones_like(features)
        return {"loss": self.factor * (features - target).square().mean(), "embeddings": features}


class Counting(Method):
    """Tells its own steps as a metric, and remembers what it is told after each."""

    def __init__(self, encoder):
        super().__init__(encoder)
        self.steps, self.told, self.weights, self.epochs = 0.0, [], [], []

    def before_epoch(self):
        self.epochs.append((self.steps, torch.rand(()).item()))

    def training_step(self, batch):
        loss = self.encoder(batch["views"][0]).square().mean()
        self.steps += 1
        self.weights.append(self.weight())
        return {"loss": loss, "metrics": {"steps": torch.tensor(self.steps)}}

    def after_step(self, progress):
        assert self.weight() != self.weights[-1]
        self.told.append(progress)

    def weight(self):
        return next(self.encoder.parameters()).sum().item()


def train(
    method, callbacks=(), epochs=EPOCHS, optimizer=None, stop_after=None, resume=None, views=None
):
    module = Pretraining(method, optimizer or OptimizerParams(lr=5e-3), epochs, STEPS, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=stop_after or epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        trainer.fit(module, DataLoader(views or Views(), batch_size=None), ckpt_path=resume)
    return trainer


def simclr(seed=0):
    return build_method(SimCLRParams(projector_hidden=32), small_encoder(seed=seed), seed=seed)


def test_healthy_run_finishes_and_its_history_holds_every_number():
    images, labels = easy_images(64, seed=9)
    told = []
    history = EpochHistory(told.append)
    method = simclr()
    train(method, [CollapseMonitor(images), OnlineKNN(images, labels, k=5), history])
    assert [row["epoch"] for row in history.rows] == [0, 1, 2]
    for row in history.rows:
        watched = {"rankme", "feature_std", "embedding_rank", "embedding_std", "knn"}
        assert set(row) == {"epoch", "loss", "lr"} | watched
        assert 1 <= row["rankme"] <= method.encoder.features_dim
    assert told == history.rows
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    lr_of_last_step = 5e-3 * warmup_cosine(EPOCHS * STEPS - 1, EPOCHS * STEPS, STEPS)
    assert history.rows[-1]["lr"] == pytest.approx(lr_of_last_step)
    told_again = []
    restored = EpochHistory(told_again.append)
    restored.load_state_dict(history.state_dict())
    assert told_again == restored.rows == history.rows


def test_method_is_told_the_progress_after_each_step_and_its_metrics_are_averaged():
    method, history = Counting(small_encoder()), EpochHistory()
    train(method, [history])
    assert method.told == [step / (EPOCHS * STEPS) for step in range(EPOCHS * STEPS)]
    assert [row["steps"] for row in history.rows] == [2.5, 6.5, 10.5]


def test_method_is_told_of_each_epoch_before_its_first_step_with_draws_keyed_by_it(tmp_path):
    whole, first, rest = (Counting(small_encoder()) for _ in range(3))
    train(whole)
    assert [steps for steps, _ in whole.epochs] == [0, STEPS, 2 * STEPS]
    assert len({draw for _, draw in whole.epochs}) == EPOCHS
    train(first, stop_after=2).save_checkpoint(tmp_path / "epoch.ckpt")
    train(rest, resume=tmp_path / "epoch.ckpt")
    draws = [draw for _, draw in first.epochs + rest.epochs]
    assert draws == [draw for _, draw in whole.epochs]


def test_collapsed_run_is_stopped_with_an_explanation():
    images, _ = easy_images(64, seed=9)
    optimizer = OptimizerParams(lr=2e-2, warmup_epochs=0, weight_decay=0)
    monitor = CollapseMonitor(images, min_spread=0.1)
    with pytest.raises(ModelError, match=r"pretraining collapsed: after epoch .* lower"):
        train(Collapsing(small_encoder()), [monitor], epochs=40, optimizer=optimizer)


def test_loss_that_is_no_number_stops_the_run_in_its_first_epoch():
    images, _ = easy_images(8)
    with pytest.raises(ModelError, match=r"diverged: the loss is nan at step \d+ \(epoch 1\)"):
        train(Collapsing(small_encoder(), float("nan")), [CollapseMonitor(images)])


def test_identical_runs_give_identical_bytes_and_another_seed_others(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        method = simclr(seed)
        train(method)
        save_weights(method.encoder, tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_monitors_do_not_change_what_is_learned(tmp_path):
    images, labels = easy_images(40, seed=9)
    monitors = [CollapseMonitor(images), OnlineKNN(images, labels), EpochHistory()]
    for name, callbacks in [("plain", []), ("watched", monitors)]:
        method = simclr()
        train(method, callbacks)
        save_weights(method, tmp_path / name)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "watched").read_bytes()


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, first, resumed = simclr(), simclr(), simclr(seed=5)
    histories = [EpochHistory() for _ in range(3)]
    train(whole, histories[:1])
    trainer = train(first, histories[1:2], stop_after=1)
    trainer.save_checkpoint(tmp_path / "epoch.ckpt")
    train(resumed, histories[2:], resume=tmp_path / "epoch.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert histories[2].rows == histories[0].rows


def test_norms_and_biases_do_not_decay():
    method = simclr()
    matrices, vectors = decay_groups(method, lr=0.1, weight_decay=0.3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.ndim > 1 for parameter in matrices["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    count = len(matrices["params"]) + len(vectors["params"])
    assert count == len(list(method.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_steps_on_channels_last_weights_equal_the_plain_optimizer(name):
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    results = []
    for fused in (True, False):
        encoder = small_encoder(channels=3).double()
        groups = decay_groups(encoder, lr=1e-2, weight_decay=0.1)
        optimizer = build_optimizer(name, groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(3):
            loss = encoder(images.double()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results.append([p.detach() for p in encoder.parameters()])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*results, strict=True))
