"""What makes each method work: teachers, queues, neighbours, stopped gradients."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams
from models.errors import UnhealthyError
from models.layers.momentum import MomentumCopy, enqueue
from models.methods import build_method
from models.methods.contrastive.params import MoCoV2Params, MoCoV3Params, NNCLRParams
from models.methods.decorrelation.params import BarlowTwinsParams, LeJEPAParams, VICRegParams
from models.methods.losses import (
    covariance_penalty,
    cross_correlation,
    info_nce,
    sigreg,
    variance_hinge,
)
from models.methods.self_distillation.params import BYOLParams, SimSiamParams
from models.pretraining.callbacks import CollapseMonitor
from models.training.optimizers import decay_groups
from models.training.params import OptimizerParams
from models.training.randomness import seeded
from models.training.schedules import momentum_to_one
from tests.models.easy_images import easy_images, plain_augment, small_encoder
from tests.models.pretraining.test_module import train

TAUGHT = {
    "byol": BYOLParams(momentum=0.9),
    "moco-v3": MoCoV3Params(momentum=0.9),
    "moco-v2": MoCoV2Params(momentum=0.9, queue=64),
}


def pair(count=16, seed=0):
    images, _ = easy_images(count, seed=seed)
    return {"views": [plain_augment(images, 2 * seed + view) for view in range(2)]}


def test_simsiam_stops_the_gradient_at_its_targets():
    method, batch = build_method(SimSiamParams(), small_encoder(), seed=0), pair()
    method.training_step(batch)["loss"].backward()
    weight = next(method.encoder.parameters())
    x1, x2 = batch["views"]
    branches = [method.projector(method.encoder(x)) for x in (x1, x2)]
    p1, p2 = (method.predictor(z) for z in branches)
    z1, z2 = (z / z.norm(dim=1, keepdim=True) for z in branches)
    constants = z1.detach(), z2.detach()

    def slope(targets):
        cosines = [(p / p.norm(dim=1, keepdim=True) * z).sum(1).mean() for p, z in targets]
        return torch.autograd.grad(-sum(cosines) / 2, weight, retain_graph=True)[0]

    stopped = slope([(p1, constants[1]), (p2, constants[0])])
    assert torch.allclose(weight.grad, stopped, atol=1e-6)
    assert not torch.allclose(weight.grad, slope([(p1, z2), (p2, z1)]), atol=1e-3)


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_moves_by_exactly_its_momentum(name):
    method = build_method(TAUGHT[name], small_encoder(), seed=0).double()
    before = [weight.clone() for weight in method.teacher.parameters()]
    for weight in method.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight)
    method.after_step(0.0)
    students = [*method.encoder.parameters(), *method.projector.parameters()]
    for old, new, student in zip(before, method.teacher.parameters(), students, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * student, rtol=0, atol=1e-14)
        assert not torch.equal(new, old)


def test_momentum_rises_from_its_start_to_one_as_half_a_cosine():
    assert momentum_to_one(0.9, 0.0) == pytest.approx(0.9, abs=1e-15)
    assert momentum_to_one(0.9, 0.25) == pytest.approx(1 - 0.05 * (1 + math.sqrt(0.5)))
    assert momentum_to_one(0.9, 0.5) == pytest.approx(0.95)
    assert momentum_to_one(0.9, 1.0) == 1


@pytest.mark.parametrize("name", sorted(set(TAUGHT) - {"moco-v2"}))
def test_teacher_of_a_ripe_run_rests(name):
    method = build_method(TAUGHT[name], small_encoder(), seed=0)
    torch.nn.init.normal_(next(method.encoder.parameters()))
    before = [weight.clone() for weight in method.teacher.parameters()]
    method.after_step(1.0)
    assert all(map(torch.equal, before, method.teacher.parameters()))


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_gets_no_gradient_and_no_optimizer_but_follows_a_training(name):
    method = build_method(TAUGHT[name], small_encoder(), seed=0)
    teacher = list(method.teacher.parameters())
    assert teacher and not {id(w) for w in teacher} & {id(w) for w in method.encoder.parameters()}
    optimised = [w for group in decay_groups(method, 0.1, 0.1) for w in group["params"]]
    assert not {id(w) for w in teacher} & {id(w) for w in optimised}
    before = [weight.clone() for weight in teacher]
    train(method, epochs=1)
    assert all(weight.grad is None for weight in teacher)
    assert not any(map(torch.equal, before, teacher))


def test_momentum_copy_keeps_batch_statistics_of_its_own():
    source = torch.nn.BatchNorm1d(3)
    copy = MomentumCopy(source)
    source(torch.full((4, 3), 9.0))
    copy.follow(source, momentum=0.0)
    assert copy.parts[0].running_mean.tolist() == [0, 0, 0]


class WithoutStop(torch.nn.Sequential):
    """A teacher that is the student itself, gradient and all."""

    def follow(self, *_, momentum):
        pass


@pytest.mark.parametrize("stopped", [True, False])
def test_byol_collapses_without_its_teacher_and_the_monitor_says_so(stopped):
    params = BYOLParams(projector_hidden=32, projector_dim=16, predictor_hidden=32, momentum=0.9)
    method = build_method(params, small_encoder(), seed=0)
    if not stopped:
        method.teacher = WithoutStop(method.encoder, method.projector)
    optimizer = OptimizerParams(lr=5e-2, warmup_epochs=0, weight_decay=0.5)
    monitor = CollapseMonitor(easy_images(64, seed=9)[0], min_spread=0.1)
    if stopped:
        train(method, [monitor], epochs=60, optimizer=optimizer)
    else:
        with pytest.raises(UnhealthyError, match="pretraining collapsed: .* embedding_std"):
            train(method, [monitor], epochs=60, optimizer=optimizer)


def test_moco_v3_leaves_the_patch_projection_of_a_vit_random():
    params = EncoderParams(name="test_vit", patch_size=4)
    encoder = build_encoder(params, 1, 16, [0.4], [0.2], seed=0)
    method = build_method(TAUGHT["moco-v3"], encoder, seed=0)
    projection = method.encoder.network.net.patch_embed.proj
    before = projection.weight.clone()
    train(method, epochs=1)
    assert torch.equal(projection.weight, before)
    frozen = [n for n, w in method.encoder.named_parameters() if not w.requires_grad]
    assert len(frozen) == 2, frozen


def test_queue_is_first_in_first_out():
    queue = torch.arange(6.0).reshape(3, 2)
    a, b = torch.full((1, 2), 10.0), torch.full((2, 2), 20.0)
    queue = enqueue(queue, a)
    assert queue.tolist() == [[10, 10], [0, 1], [2, 3]]
    queue = enqueue(queue, b)
    assert queue.tolist() == [[20, 20], [20, 20], [10, 10]]
    assert enqueue(queue, torch.arange(8.0).reshape(4, 2)).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_moco_v2_contrasts_with_former_keys_only():
    method = build_method(TAUGHT["moco-v2"], small_encoder(), seed=0)
    keys = []
    for step in range(3):
        before = method.queue.clone()
        with mock.patch("models.methods.contrastive.moco_v2.info_nce", wraps=info_nce) as contrast:
            method.training_step(pair(seed=step))
        _, key, _, negatives = contrast.call_args.args
        assert torch.equal(negatives, before)
        keys.insert(0, F.normalize(key, dim=1))
        assert ((negatives @ keys[0].T).max(dim=0).values < 1 - 1e-6).all()
        assert torch.equal(method.queue[: 16 * len(keys)], torch.cat(keys))
        assert torch.equal(method.queue[16:], before[:-16])


def test_moco_v2_norms_keys_in_shuffled_groups_and_gives_them_back_in_order():
    params = MoCoV2Params(queue=64, projector_dim=256, groups=4)
    method, batch, seen = build_method(params, small_encoder(), seed=0), pair(), []

    class Pixels(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)

    method.teacher = Pixels()
    with mock.patch("models.methods.contrastive.moco_v2.info_nce", wraps=info_nce) as contrast:
        method.training_step(batch)
    second = batch["views"][1]
    assert torch.equal(contrast.call_args.args[1], second.flatten(1))
    assert [len(group) for group in seen] == [4, 4, 4, 4]
    assert not torch.equal(torch.cat(seen), second)


def test_nnclr_takes_its_neighbours_from_former_batches():
    method = build_method(NNCLRParams(support=48), small_encoder(), seed=0)
    for step in range(3):
        before = method.support.clone()
        with mock.patch("models.methods.contrastive.nnclr.info_nce", wraps=info_nce) as contrast:
            z1 = method.training_step(pair(seed=step))["embeddings"]
        assert contrast.call_count == 2
        for call in contrast.call_args_list:
            positives = call.args[0]
            assert not positives.requires_grad
            assert (positives[:, None] == before).all(2).any(1).all(), "each is of the support set"
        assert torch.equal(method.support[:16], F.normalize(z1, dim=1))
        assert torch.equal(method.support[16:], before[:-16])


def test_nnclr_neighbour_is_the_nearest_by_angle():
    method = build_method(NNCLRParams(support=3, projector_dim=2), small_encoder(), seed=0)
    method.support = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = method.neighbours(torch.tensor([[9.0, 1.0], [-0.1, 0.2], [-5.0, -4.0]]))
    assert found.tolist() == [[1, 0], [0, 1], [-1, 0]]


def cosines(a, b):
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def contrast(queries, keys, temperature):
    """-log of the softmax at the own key, written out."""
    shares = (cosines(queries, keys) / temperature).exp()
    return -(shares.diagonal() / shares.sum(1)).log().mean()


def byol_loss(m, x1, x2, z1, z2, p1, p2):
    pairs = (p1, m.teacher(x2)), (p2, m.teacher(x1))
    return sum((F.normalize(p) - F.normalize(z)).square().sum(1).mean() for p, z in pairs)


def simsiam_loss(m, x1, x2, z1, z2, p1, p2):
    return -(cosines(p1, z2).diagonal().mean() + cosines(p2, z1).diagonal().mean()) / 2


def moco_v3_loss(m, x1, x2, z1, z2, p1, p2):
    t = m.temperature
    return 2 * t * (contrast(p1, m.teacher(x2), t) + contrast(p2, m.teacher(x1), t))


def nnclr_loss(m, x1, x2, z1, z2, p1, p2):
    n1, n2 = (m.support[cosines(z, m.support).argmax(1)] for z in (z1, z2))
    return (contrast(n1, p2, m.temperature) + contrast(n2, p1, m.temperature)) / 2


def barlow_twins_loss(m, x1, x2, z1, z2):
    off = 1 - torch.eye(z1.shape[1])
    c = cross_correlation(z1, z2)
    return (1 - c.diagonal()).square().sum() + 0.3 * (off * c).square().sum()


def vicreg_loss(m, x1, x2, z1, z2):
    variance = variance_hinge(z1) + variance_hinge(z2)
    covariance = covariance_penalty(z1) + covariance_penalty(z2)
    return 2 * (z1 - z2).square().mean() + 3 * variance + 5 * covariance


def lejepa_loss(m, x1, x2, z1, z2):
    center = (z1 + z2) / 2
    off = torch.stack([z1 - center, z2 - center]).square().mean()
    with seeded("step"):
        directions = torch.randn(z1.shape[1], 8)
    return 0.9 * off + 0.1 * (sigreg(z1, directions) + sigreg(z2, directions)) / 2


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (BYOLParams(), byol_loss),
        (SimSiamParams(), simsiam_loss),
        (MoCoV3Params(temperature=0.3), moco_v3_loss),
        (NNCLRParams(support=40), nnclr_loss),
        (BarlowTwinsParams(projector_dim=8, redundancy_weight=0.3), barlow_twins_loss),
        (
            VICRegParams(
                projector_dim=8, invariance_weight=2, variance_weight=3, covariance_weight=5
            ),
            vicreg_loss,
        ),
        (LeJEPAParams(gaussian_weight=0.1, slices=8), lejepa_loss),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_loss_is_made_of_both_views_as_in_the_paper(params, expected):
    method, batch = build_method(params, small_encoder(), seed=0), pair()
    # A student unlike its teacher, or one could stand in for the other.
    torch.nn.init.normal_(next(method.encoder.parameters()))
    parts = [method.projector(method.encoder(x)) for x in batch["views"]]
    if hasattr(method, "predictor"):
        parts += [method.predictor(z) for z in parts]
    wanted = expected(method, *batch["views"], *parts).item()
    with seeded("step"):
        assert method.training_step(batch)["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_moco_v2_asks_the_first_view_for_its_key_in_the_second():
    method = build_method(MoCoV2Params(queue=40, groups=1), small_encoder(), seed=0)
    torch.nn.init.normal_(next(method.encoder.parameters()))
    x1, x2 = pair()["views"]
    q, k = method.projector(method.encoder(x1)), method.teacher(x2)
    own = (cosines(q, k).diagonal() / 0.2).exp()
    others = (cosines(q, method.queue) / 0.2).exp().sum(1)
    wanted = -(own / (own + others)).log().mean().item()
    assert method.training_step({"views": [x1, x2]})["loss"].item() == pytest.approx(wanted, 1e-4)
