"""What sorts embeddings without a label, and the methods that learn from it."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams
from models.errors import ModelError
from models.methods import build_method
from models.methods.base import encode_crops
from models.methods.clustering.deepcluster_v2 import share_moved
from models.methods.clustering.params import DeepClusterV2Params, SwAVParams
from models.methods.prototypes import (
    Prototypes,
    in_use,
    nearest,
    sinkhorn,
    spherical_kmeans,
    swapped_prediction,
)
from models.methods.self_distillation.params import DINOParams
from models.training.randomness import seeded
from tests.models.easy_images import easy_images, plain_augment, small_encoder

COUNT, LOCAL = 16, 3
SWAV = SwAVParams(local_views=LOCAL, prototypes=6, frozen_steps=0)
DINO = DINOParams(local_views=LOCAL, prototypes=6, frozen_steps=0, momentum=0.9)
DEEP = DeepClusterV2Params(local_views=LOCAL, clusters=4)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def crops(seed=0, local=LOCAL):
    """Two views and some small crops of images that differ by where they are bright."""
    images, _ = easy_images(COUNT, seed=seed)
    views = [plain_augment(images, 9 * seed + number) for number in range(2 + local)]
    small = [view[..., 2:12, 2:12] for view in views[2:]]
    return {"views": views[:2] + small, "index": torch.arange(COUNT) + COUNT * seed}


def build(params, images=COUNT):
    method = build_method(params, small_encoder(), seed=0)
    method.expect(images)
    return method


def plain_sinkhorn(scores, epsilon, iterations):
    q = [[math.exp(score / epsilon) for score in row] for row in scores.tolist()]
    for _ in range(iterations):
        totals = [sum(row[k] for row in q) for k in range(len(q[0]))]
        q = [[share / total for share, total in zip(row, totals, strict=True)] for row in q]
        q = [[share / sum(row) for share in row] for row in q]
    return torch.tensor(q, dtype=torch.double)


@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_sinkhorn_agrees_with_plain_loops(iterations):
    scores = noise(12, 5).tanh()
    found = sinkhorn(scores, 0.1, iterations)
    assert torch.allclose(found, plain_sinkhorn(scores, 0.1, iterations), rtol=1e-9)


def test_sinkhorn_gives_every_sample_one_share_and_every_prototype_as_many():
    scores = noise(30, 5).tanh()
    scores[:, 0] += 1  # all like the first best
    assert (scores.argmax(dim=1) == 0).float().mean() > 0.5
    codes = sinkhorn(scores, 0.05, iterations=300)
    assert torch.allclose(codes.sum(dim=1), torch.ones(30, dtype=torch.double))
    assert torch.allclose(codes.sum(dim=0), torch.full((5,), 6.0, dtype=torch.double), atol=1e-4)
    assert torch.allclose(sinkhorn(scores, 0.05).sum(dim=1), torch.ones(30, dtype=torch.double))


def test_sinkhorn_does_not_see_what_is_added_to_a_sample_or_a_prototype():
    scores = noise(10, 4)
    moved = scores + noise(10, 1, seed=1) + noise(1, 4, seed=2)
    assert torch.allclose(sinkhorn(scores, 0.5, 200), sinkhorn(moved, 0.5, 200), atol=1e-9)


def test_sinkhorn_bears_an_epsilon_that_exp_would_not():
    codes = sinkhorn(torch.tensor([[1.0, -1.0], [0.9, -1.0]]), 1e-3)
    assert codes.argmax(dim=1).tolist() == [0, 1]
    assert torch.allclose(codes.sum(dim=1), torch.ones(2))


def test_sinkhorn_passes_no_gradient():
    assert not sinkhorn(noise(4, 3).requires_grad_(), 0.1).requires_grad


def plain_swapped(targets, log_p):
    losses = []
    for i in range(len(targets)):
        for v in range(len(log_p)):
            if v != i:
                for t, p in zip(targets[i], log_p[v], strict=True):
                    losses.append(-sum((a * b).item() for a, b in zip(t, p, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("views", [2, 5])
def test_swapped_prediction_agrees_with_plain_loops_and_their_slope(views):
    targets, scores = noise(2, 3, 4).softmax(dim=2), noise(views, 3, 4, seed=1).requires_grad_()
    found = swapped_prediction(targets, scores.log_softmax(dim=2)).item()
    assert found == pytest.approx(plain_swapped(targets, scores.log_softmax(dim=2)))
    assert torch.autograd.gradcheck(
        lambda s: swapped_prediction(targets, s.log_softmax(dim=2)), scores
    )


def test_no_view_predicts_itself():
    targets, log_p = noise(2, 3, 4).softmax(dim=2), noise(2, 3, 4).log_softmax(dim=2)
    before = swapped_prediction(targets, log_p)
    targets[0], log_p[0] = targets[0].roll(1, dims=1), log_p[0].roll(1, dims=1)
    crossed = -(targets[0] * log_p[1]).sum(1).mean() - (targets[1] * log_p[0]).sum(1).mean()
    assert swapped_prediction(targets, log_p).item() == pytest.approx(crossed.item() / 2)
    assert before != swapped_prediction(targets, log_p)


def test_in_use_counts_the_classes_that_share_evenly():
    assert in_use(torch.eye(7)).item() == pytest.approx(7)
    assert in_use(F.one_hot(torch.tensor([2, 2, 2]), 5).float()).item() == pytest.approx(1)
    assert in_use(F.one_hot(torch.tensor([1, 4]), 5).float()).item() == pytest.approx(2)


def test_prototypes_are_a_layer_with_weight_norm_on_normalised_embeddings():
    prototypes, z = Prototypes(5, 3, frozen_steps=0), noise(4, 5).float()
    layer = torch.nn.Linear(5, 3, bias=False)
    layer.weight.data = prototypes.weight.data.clone()
    normed = torch.nn.utils.parametrizations.weight_norm(layer)
    normed.parametrizations.weight.original0.data.fill_(1)
    assert torch.allclose(prototypes(z), normed(F.normalize(z, dim=1)), atol=1e-6)
    prototypes(z).square().sum().backward()
    normed(F.normalize(z, dim=1)).square().sum().backward()
    expected = normed.parametrizations.weight.original1.grad
    assert torch.allclose(prototypes.weight.grad, expected, atol=1e-5)


@pytest.mark.parametrize("params", [SWAV, DINO], ids=lambda params: params.name)
def test_prototypes_stay_during_the_first_steps_only(params):
    method = build(params.model_copy(update={"frozen_steps": 2}))
    still = []
    for _ in range(3):
        method.zero_grad()
        method.training_step(crops())["loss"].backward()
        still.append(not method.prototypes.weight.grad.any().item())
        method.after_step(0.0)
    assert still == [True, True, False]


def sphere(count, dim, seed=0):
    return F.normalize(noise(count, dim, seed=seed), dim=1)


def plain_kmeans(points, centroids, iterations):
    points, centroids = points.tolist(), centroids.tolist()
    for _ in range(iterations):
        members = [[] for _ in centroids]
        for point in points:
            cosines = [sum(a * b for a, b in zip(point, c, strict=True)) for c in centroids]
            members[cosines.index(max(cosines))].append(point)
        for k, own in enumerate(members):
            if own:
                total = [sum(values) for values in zip(*own, strict=True)]
                length = math.sqrt(sum(value**2 for value in total))
                centroids[k] = [value / length for value in total]
    return torch.tensor(centroids, dtype=torch.double)


def test_kmeans_agrees_with_plain_loops():
    points = sphere(60, 4)
    with seeded("kmeans"):
        found = spherical_kmeans(points, 7, iterations=5)
    with seeded("kmeans"):
        first = points[torch.randperm(60)[:7]]
    assert not torch.allclose(found, first)
    assert torch.allclose(found, plain_kmeans(points, first, 5), atol=1e-12)


def test_kmeans_finds_the_clusters_that_scikit_learn_finds():
    kinds = torch.arange(400) % 4
    points = F.normalize(
        3 * torch.eye(4, 8, dtype=torch.double)[kinds] + 0.5 * noise(400, 8), dim=1
    )
    peer = KMeans(4, n_init=10, random_state=0).fit(points)
    # As the peer does: the best of several starts.
    with seeded("kmeans"):
        found = [spherical_kmeans(points, 4, iterations=20) for _ in range(10)]
    best = max(found, key=lambda centroids: (points @ centroids.T).amax(dim=1).sum())
    assert adjusted_rand_score(nearest(points, best), peer.labels_) > 0.98


def test_a_cluster_that_loses_all_its_points_keeps_its_centroid(monkeypatch):
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    monkeypatch.setattr(torch, "randperm", lambda count, device: torch.arange(count))
    centroids = spherical_kmeans(points, 3)
    assert centroids.tolist() == points.tolist()  # the second is as near as the first, and lost


def test_more_clusters_than_images_are_refused_with_a_remedy():
    with pytest.raises(ModelError, match=r"3 images cannot make 4 clusters; lower .*\.clusters"):
        spherical_kmeans(sphere(3, 2), 4)


def test_nearest_is_the_same_in_chunks():
    points, centroids = sphere(50, 4), sphere(6, 4, seed=1)
    whole = (points @ centroids.T).argmax(dim=1)
    assert torch.equal(nearest(points, centroids, chunk=7), whole)


def test_crops_of_one_size_go_through_the_encoder_together():
    encoder, batch, seen = small_encoder(), crops(), []
    encoder.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    features = encode_crops(encoder.eval(), batch, LOCAL)
    assert seen == [(2 * COUNT, 1, 16, 16), (LOCAL * COUNT, 1, 10, 10)]
    for number, view in enumerate(batch["views"]):
        own = features[number * COUNT : (number + 1) * COUNT]
        assert torch.allclose(own, encoder(view), atol=1e-5), number


@pytest.mark.parametrize("params", [SWAV, DINO, DEEP], ids=lambda params: params.name)
def test_encoder_of_a_fixed_size_is_refused_small_crops_and_takes_the_views(params):
    fixed = EncoderParams(name="deit_tiny_patch16_224", patch_size=8)
    encoder = build_encoder(fixed, 1, 16, [0.4], [0.2], seed=0)
    with pytest.raises(ModelError, match=r"takes no small crops; set .*local_views to 0"):
        build_method(params, encoder)
    method = build_method(params.model_copy(update={"local_views": 0}), encoder)
    method.expect(COUNT)
    assert method.training_step(crops(local=0))["loss"].isfinite()


def parts(method, batch):
    """Embeddings (V, N, D) of all crops."""
    z = method.projector(encode_crops(method.encoder, batch, LOCAL))
    return z.unflatten(0, (2 + LOCAL, COUNT))


def cosines(z, directions):
    return F.normalize(z, dim=-1) @ F.normalize(directions, dim=1).T


def test_swav_predicts_the_codes_of_the_global_views_from_all_other_crops():
    method, batch = build(SWAV), crops()
    scores = cosines(parts(method, batch), method.prototypes.weight)
    codes = torch.stack([plain_sinkhorn(view, 0.05, 3) for view in scores[:2]])
    log_p = (scores / 0.1).log_softmax(dim=2)
    loss = method.training_step(batch)["loss"]
    assert loss.item() == pytest.approx(plain_swapped(codes, log_p), rel=1e-4)
    # Codes are constants: the slope is that of the predictions alone.
    loss.backward()
    slope = torch.autograd.grad(swapped_prediction(codes.float(), log_p), method.prototypes.weight)[
        0
    ]
    assert torch.allclose(method.prototypes.weight.grad, slope, atol=1e-6)


def unlike_its_teacher(method):
    torch.nn.init.normal_(next(method.encoder.parameters()))
    method.centre.copy_(noise(6).float())
    return method


def test_dino_says_of_each_crop_what_the_teacher_says_of_the_other_view():
    method, batch = unlike_its_teacher(build(DINO)), crops()
    log_p = (cosines(parts(method, batch), method.prototypes.weight) / 0.1).log_softmax(dim=2)
    said = method.teacher(torch.cat(batch["views"][:2]))
    targets = ((said - method.centre) / 0.04).softmax(dim=1).unflatten(0, (2, COUNT))
    loss = method.training_step(batch)["loss"].item()
    assert loss == pytest.approx(plain_swapped(targets, log_p), rel=1e-4)


def test_dino_teacher_sees_global_views_only_and_gets_no_gradient():
    method, batch, seen = build(DINO), crops(), []
    method.teacher.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    method.training_step(batch)["loss"].backward()
    assert len(seen) == 1 and torch.equal(seen[0], torch.cat(batch["views"][:2]))
    assert all(weight.grad is None for weight in method.teacher.parameters())


def test_dino_teacher_moves_by_exactly_its_momentum_last_layer_too():
    method = build(DINO).double()
    students = [
        weight
        for part in (method.encoder, method.projector, method.prototypes)
        for weight in part.parameters()
    ]
    before = [weight.clone() for weight in method.teacher.parameters()]
    for weight in students:
        torch.nn.init.normal_(weight)
    method.after_step(0.0)
    for old, new, student in zip(before, method.teacher.parameters(), students, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * student, rtol=0, atol=1e-14)
    rested = [weight.clone() for weight in method.teacher.parameters()]
    method.after_step(1.0)
    assert all(map(torch.equal, rested, method.teacher.parameters()))


def test_dino_centre_is_the_running_mean_of_what_the_teacher_said():
    method, expected = build(DINO), torch.zeros(6)
    for number in range(3):
        batch = crops(seed=number)
        said = method.teacher(torch.cat(batch["views"][:2]))
        method.training_step(batch)
        expected = 0.9 * expected + 0.1 * said.mean(dim=0)
        assert torch.allclose(method.centre, expected, atol=1e-6)
    assert not method.centre.requires_grad


def test_dino_teacher_temperature_rises_in_a_line_and_stays():
    method = build(DINO)
    seen = []
    for progress in (0.0, 0.15, 0.3, 0.9):
        method.after_step(progress)
        seen.append(method.teacher_temperature.item())
    assert seen == pytest.approx([0.04, 0.055, 0.07, 0.07])
    steady = build(DINO.model_copy(update={"warmup": 0.0}))
    steady.after_step(0.0)
    assert steady.teacher_temperature.item() == pytest.approx(0.07)


def test_memory_bank_holds_the_embedding_that_each_image_had_when_last_seen():
    method, expected = build(DEEP, images=3 * COUNT), {}
    for seed in (0, 2, 0):
        batch = crops(seed)
        with torch.no_grad():
            z = F.normalize(parts(method, batch)[:2], dim=2)
        for image, (first, second) in zip(batch["index"].tolist(), z.unbind(1), strict=True):
            expected[image] = (first + second) / (first + second).norm()
        method.training_step(batch)
        with torch.no_grad():  # the network moves on
            next(method.encoder.parameters()).mul_(-1.5)
    assert sorted(expected) == [*range(COUNT), *range(2 * COUNT, 3 * COUNT)]
    for image, own in expected.items():
        assert torch.allclose(method.bank[image], own, atol=1e-5), image
    assert not method.bank[COUNT : 2 * COUNT].any()


def test_an_epoch_begins_with_the_clusters_of_the_bank():
    method = build(DEEP, images=2 * COUNT)
    method.training_step(crops())
    with seeded("epoch"):
        method.before_epoch()
    with seeded("epoch"):
        centroids = spherical_kmeans(method.bank[:COUNT], 4)
    assert torch.equal(method.centroids, centroids)
    assert torch.equal(method.assigned[:COUNT], (method.bank[:COUNT] @ centroids.T).argmax(1))
    assert (method.assigned[COUNT:] == -1).all(), "never seen"
    assert method.moved == 1, "all had none"
    sizes = torch.bincount(method.assigned[:COUNT], minlength=4) / COUNT
    assert method.used.item() == pytest.approx(torch.special.entr(sizes).sum().exp().item())
    before = method.assigned.clone()
    method.before_epoch()
    assert method.moved.item() == pytest.approx(share_moved(before, method.assigned, 4).item())


def test_deepcluster_names_each_image_s_cluster_from_every_crop():
    method, batch = build(DEEP), crops()
    batch["index"] = batch["index"].flip(0)
    method.assigned = torch.arange(COUNT) % 4
    method.all_assigned = True
    log_p = (cosines(parts(method, batch), method.centroids) / 0.1).log_softmax(dim=2)
    losses = [
        -log_p[view, place, int(image) % 4].item()
        for view in range(2 + LOCAL)
        for place, image in enumerate(batch["index"])
    ]
    loss = method.training_step(batch)["loss"].item()
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_images_without_a_cluster_are_shared_out_evenly_for_now():
    method, batch = build(DEEP), crops()
    method.assigned[:3] = 2
    with torch.no_grad():
        z = parts(method, batch)
    own = F.normalize(F.normalize(z[:2], dim=2).mean(0), dim=1)
    named = plain_sinkhorn(own @ method.centroids.T, 0.05, 3).argmax(dim=1)
    named[:3] = 2
    log_p = (cosines(z, method.centroids) / 0.1).log_softmax(dim=2)
    expected = -log_p.gather(2, named.expand(2 + LOCAL, -1)[:, :, None]).mean()
    assert method.training_step(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_moved_images_are_those_that_left_most_of_the_others_whatever_clusters_are_called():
    before = torch.tensor([0, 0, 0, 1, 1, 2])
    assert share_moved(before, torch.tensor([2, 2, 2, 0, 0, 1]), 3) == 0
    assert share_moved(before, torch.tensor([2, 2, 0, 0, 0, 1]), 3).item() == pytest.approx(1 / 6)
    assert share_moved(torch.full((6,), -1), before, 3) == 1
    assert share_moved(before, before.masked_fill(before == 2, -1), 3).item() == pytest.approx(
        1 / 6
    )
