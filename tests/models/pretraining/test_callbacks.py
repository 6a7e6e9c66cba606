"""What is seen of a collapse: methods robbed of what keeps them from it, and those that have it."""

import pytest
import torch

from models.errors import UnhealthyError
from models.methods import build_method
from models.methods.base import two_views
from models.methods.losses import negative_cosine
from models.methods.self_distillation.byol import BYOL
from models.methods.self_distillation.params import BYOLParams, SimSiamParams
from models.methods.self_distillation.simsiam import SimSiam
from models.pretraining.callbacks import CollapseMonitor
from models.training.params import OptimizerParams
from tests.models.easy_images import easy_images, small_encoder
from tests.models.pretraining.test_module import STEPS, Collapsing, train

SIMSIAM = SimSiamParams(projector_hidden=32, projector_dim=16, predictor_hidden=8)
BOOTSTRAP = BYOLParams(projector_hidden=32, projector_dim=16, predictor_hidden=32, momentum=0.9)


class Alike(torch.utils.data.Dataset):
    """Images that hardly differ under much noise, so that views agree best where nothing counts."""

    def __init__(self):
        self.shown = 0

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        images, _ = easy_images(32, classes=1, seed=index)
        floats = images.permute(0, 3, 1, 2).float() / 255
        self.shown += 1  # noise that no step has seen before
        generator = torch.Generator().manual_seed(self.shown)
        noise = torch.randn(2, *floats.shape, generator=generator)
        return {"views": list((floats + 0.3 * noise).clamp(0, 1))}


class WithoutStopGradient(SimSiam):
    def training_step(self, batch):
        z1, z2 = (self.projector(self.encoder(x)) for x in two_views(batch))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2
        return {"loss": loss, "embeddings": z1}


class WithoutPredictor(BYOL):
    def __init__(self, params, encoder):
        super().__init__(params, encoder)
        self.predictor = torch.nn.Identity()


class ItsOwnTeacher(torch.nn.Sequential):
    """The student itself, gradient and all."""

    def follow(self, *_, momentum):
        pass


class WithoutTeacher(BYOL):
    def __init__(self, params, encoder):
        super().__init__(params, encoder)
        self.teacher = ItsOwnTeacher(self.encoder, self.projector)


def watched(method):
    optimizer = OptimizerParams(lr=0.05, warmup_epochs=0, weight_decay=0.5)
    monitor = CollapseMonitor(easy_images(64, classes=1, seed=9)[0])
    return train(method, [monitor], epochs=40, optimizer=optimizer, views=Alike())


@pytest.mark.parametrize(
    ("kind", "params", "name"),
    [
        (WithoutStopGradient, SIMSIAM, "embedding_rank"),
        (WithoutPredictor, BOOTSTRAP, "embedding_(rank|std)"),
        (WithoutTeacher, BOOTSTRAP, "embedding_(rank|std)"),
    ],
)
def test_method_robbed_of_what_keeps_it_from_collapse_is_stopped(kind, params, name):
    torch.manual_seed(0)
    method = kind(params, small_encoder())
    with pytest.raises(UnhealthyError, match=f"collapsed: after epoch .* {name} is .*; lower"):
        watched(method)


@pytest.mark.parametrize("params", [SIMSIAM, BOOTSTRAP], ids=lambda params: params.name)
def test_true_method_is_not_stopped_where_the_robbed_one_is(params):
    numbers = watched(build_method(params, small_encoder(), seed=0)).callback_metrics
    assert numbers["embedding_rank"] > 1.5


class Showing(Collapsing):
    """Trains as it will, and shows the monitor embeddings of choice."""

    def __init__(self, embeddings):
        super().__init__(small_encoder(), factor=0.0)
        self.embeddings = embeddings

    def training_step(self, batch):
        return {**super().training_step(batch), "embeddings": self.embeddings}


def line(count, dim):
    """All on one line, to both sides of 0: no spread is missing, but rank is."""
    side = (torch.arange(count) % 2 * 2.0 - 1).unsqueeze(1)
    return side * torch.linspace(1, 2, count).unsqueeze(1) * torch.ones(dim)


def show(embeddings):
    method = Showing(embeddings)
    return train(method, [CollapseMonitor(easy_images(64)[0])], epochs=1).callback_metrics


def test_embeddings_on_a_line_are_a_collapse_that_their_spread_does_not_show():
    with pytest.raises(UnhealthyError, match=r"embedding_rank is 1 of 16, so all images share one"):
        show(line(32, 16))


@pytest.mark.parametrize(("count", "dim"), [(4, 128), (32, 2), (32, 7)])
def test_few_embeddings_or_dimensions_are_measured_and_not_judged_by_their_rank(count, dim):
    assert show(line(count, dim))["embedding_rank"] == pytest.approx(1)


def test_embeddings_of_a_narrow_cone_are_healthy():
    """As those of an untrained head without batch norm: one great mean, little around it."""
    noise = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    assert 1.2 < show(10 + 0.15 * noise)["embedding_rank"] < 2
