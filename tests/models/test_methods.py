"""What makes each method work: teachers, queues, neighbours, stopped gradients."""

import torch

from models.methods import build_method
from models.methods.params import (
    SimSiamParams,
)
from tests.models.easy_images import easy_images, plain_augment, small_encoder


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
