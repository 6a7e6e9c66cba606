"""MAE hides its share, never sees it, and is judged by it alone."""

import math
from unittest import mock

import pytest
import torch

from models.encoders.images.vit_tokens import embed, encode, keep, patchify, whole_patches
from models.methods import build_method
from models.methods.masked.mae import loss_on_masked, per_patch_normalised
from models.methods.masked.params import MAEParams
from models.training.randomness import seeded
from tests.models.tiny_vits import (
    batch_of,
    images,
    method_of,
    pixels_of,
    random,
    vit,
)


def mae_run(method, x):
    """Encoding, prediction, visible ids and mask, drawn anew from the same seed."""
    pixels = whole_patches(method.encoder, x)
    with seeded("mask"):
        visible, masked = method._hide(patchify(pixels, 4))
    encoded = encode(method.encoder, keep(method.encoder, embed(method.encoder, pixels), visible))
    return encoded, method._decode(encoded, visible, (7, 7)), visible, masked


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75, 0.9])
def test_mae_hides_exactly_its_share_at_random(ratio):
    method = build_method(MAEParams(mask_ratio=ratio), vit(), seed=0)
    visible, masked = method._hide(torch.zeros(400, 49, 16))
    assert (masked.sum(1) == round(49 * ratio)).all()
    assert visible.shape == (400, 49 - round(49 * ratio))
    assert not masked.gather(1, visible).any()
    assert (masked.float().mean(0) - ratio).abs().max() < 0.12
    assert len(masked.unique(dim=0)) == 400


def test_mae_never_sees_hidden_pixels():
    method, x = method_of("mae").eval(), images()
    encoded, prediction, _, masked = mae_run(method, x)
    changed = torch.where(pixels_of(masked), 1 - x, x)
    other_encoded, other_prediction, *_ = mae_run(method, changed)
    assert torch.equal(encoded, other_encoded) and torch.equal(prediction, other_prediction)
    changed = torch.where(pixels_of(masked), x, 1 - x)
    assert not torch.allclose(mae_run(method, changed)[1], prediction, atol=1e-3)


def test_mae_prediction_has_no_slope_in_hidden_pixels():
    method, x = method_of("mae"), images().requires_grad_()
    _, prediction, _, masked = mae_run(method, x)
    (slope,) = torch.autograd.grad(prediction.square().sum(), x)
    assert (slope[pixels_of(masked)] == 0).all()
    assert (slope[~pixels_of(masked)] != 0).float().mean() > 0.99


def test_mae_loss_counts_hidden_patches_only():
    prediction, target = random(2, 4, 3), random(2, 4, 3, seed=1)
    masked = torch.tensor([[True, False, True, False], [False, False, False, True]])
    errors = [
        float((prediction[n, patch, m] - target[n, patch, m]) ** 2)
        for n in range(2)
        for patch in range(4)
        for m in range(3)
        if masked[n, patch]
    ]
    loss = loss_on_masked(prediction, target, masked)
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    elsewhere = torch.where(masked.unsqueeze(2), target, target + 5)
    assert torch.equal(loss_on_masked(prediction, elsewhere, masked), loss)
    assert loss_on_masked(target + 0.5, target, masked).item() == pytest.approx(0.25)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss_on_masked(p, target, masked), prediction)
    loss_on_masked(prediction, target, masked).backward()
    assert (prediction.grad[~masked] == 0).all()


def test_patches_are_normalised_each_on_its_own():
    patches = random(2, 3, 8)
    patches[1, 2] = 0.7  # of one colour
    normal, mean, deviation = per_patch_normalised(patches)
    for n in range(2):
        for patch in range(3):
            values = patches[n, patch].tolist()
            middle = sum(values) / 8
            spread = math.sqrt(sum((v - middle) ** 2 for v in values) / 7 + 1e-6)
            expected = [(v - middle) / spread for v in values]
            assert normal[n, patch].tolist() == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(normal * deviation + mean, patches)
    brighter = per_patch_normalised(3 * patches + 1)[0]
    assert torch.allclose(brighter[0], normal[0], atol=1e-3)


def test_mae_step_is_the_parts_put_together():
    method, x = method_of("mae"), images()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    _, prediction, _, masked = mae_run(method, x)
    normal = patchify((x - 0.4) / 0.2, 4)
    target, _, deviation = per_patch_normalised(normal)
    assert torch.allclose(output["loss"], (prediction - target)[masked].square().mean())
    raw = ((prediction - target) * deviation * 0.2)[masked].square().mean()
    assert torch.allclose(output["metrics"]["pixel_mse"], raw)
    assert output["metrics"]["masked_share"].item() == pytest.approx(37 / 49)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_a_perfect_mae_are_the_images(channels):
    method, x = method_of("mae", vit(channels=channels)).eval(), images(channels=channels)
    truth = per_patch_normalised(patchify((x - 0.4) / 0.2, 4))[0]
    with seeded("p"), torch.no_grad(), mock.patch.object(method, "_decode", return_value=truth):
        rows = method.pictures(x)
    assert torch.allclose(rows["rebuilt"], x, atol=1e-5)
    hidden = (rows["masked"] - 0.4).abs() < 1e-6  # the mean colour
    assert hidden.float().mean().item() == pytest.approx(37 / 49, abs=1e-3)
    assert torch.allclose(rows["masked"][~hidden], x[~hidden], atol=1e-6)


def test_mae_pastes_visible_pixels_into_what_it_rebuilds():
    method, x = method_of("mae").eval(), images()
    with seeded("p"), torch.no_grad():
        rows = method.pictures(x)
    visible = (rows["masked"] - 0.4).abs() > 1e-6
    assert torch.allclose(rows["rebuilt"][visible], x[visible], atol=1e-6)
    assert not torch.allclose(rows["rebuilt"][~visible], x[~visible], atol=1e-2)
