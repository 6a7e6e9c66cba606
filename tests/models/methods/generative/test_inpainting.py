"""Inpainting never sees what it fills in."""

import math

import pytest
import torch

from models.methods import build_method
from models.methods.generative.params import InpaintingParams
from models.training.randomness import seeded
from tests.models.easy_images import small_encoder
from tests.models.small_images import images, output


@pytest.mark.parametrize("region", ["blocks", "centre"])
def test_inpainting_never_sees_what_it_must_fill_in_and_is_judged_by_it_alone(region):
    method = build_method(InpaintingParams(region=region), small_encoder(), seed=0).eval()
    x = images(4)
    with seeded(3):
        removed = method.draw_holes(x)
    seen, made = [], []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.decoder.register_forward_hook(lambda _, __, result: made.append(result))
    given = x.clone().requires_grad_()
    found = output(method, given, seed=3)
    whole = removed.expand_as(x)
    assert torch.allclose(seen[0][whole], method.encoder.mean.flatten())
    assert torch.equal(seen[0][~whole], x[~whole])
    (slope,) = torch.autograd.grad(made[0].square().sum(), given, retain_graph=True)
    assert (slope[whole] == 0).all() and (slope[~whole] != 0).any()
    total, count = 0.0, 0
    for index in whole.nonzero().tolist():
        total += (x[tuple(index)] - made[0][tuple(index)]).item() ** 2
        count += 1
    assert found["loss"].item() == pytest.approx(total / count, rel=1e-4)
    (slope,) = torch.autograd.grad(found["loss"], made[0])
    assert (slope[~whole] == 0).all() and (slope[whole] != 0).all()


def test_centre_is_a_quarter_of_the_image_in_its_middle():
    params = InpaintingParams(region="centre")
    holes = build_method(params, small_encoder(), seed=0).draw_holes(torch.zeros(2, 1, 16, 16))
    assert holes.sum() == 2 * 64 and holes[:, :, 4:12, 4:12].all()


def test_blocks_are_whole_differ_between_images_and_reach_every_place():
    method = build_method(InpaintingParams(blocks=1), small_encoder(), seed=0)
    with seeded(0):
        holes = method.draw_holes(torch.zeros(400, 1, 16, 16))[:, 0]
    assert (holes.sum((1, 2)) == 64).all()
    rows, columns = holes.any(2), holes.any(1)
    assert torch.equal(holes, rows.unsqueeze(2) & columns.unsqueeze(1))
    starts = {
        (int(r.float().argmax()), int(c.float().argmax()))
        for r, c in zip(rows, columns, strict=True)
    }
    assert {r for r, _ in starts} == {c for _, c in starts} == set(range(9))
    assert len(starts) > 70
    many = build_method(InpaintingParams(blocks=4), small_encoder(), seed=0)
    with seeded(0):
        share = many.draw_holes(torch.zeros(400, 1, 16, 16)).float().mean((1, 2, 3))
    assert share.max() <= 0.25 and share.min() >= 1 / 16 and share.mean() > 0.15


def test_what_inpainting_explains_is_nothing_for_the_mean_colour():
    method = build_method(InpaintingParams(), small_encoder(), seed=0).eval()
    torch.nn.init.zeros_(method.decoder.pixels.weight)
    method.decoder.pixels.bias.data.fill_(math.log(0.4 / 0.6))  # the encoder's mean
    assert output(method, images())["metrics"]["masked_explained"].abs() < 1e-5


# Colorization.
