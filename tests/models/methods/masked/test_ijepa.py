"""I-JEPA's blocks, targets and context: nothing leaks."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from models.encoders.images.vit_tokens import embed, encode, keep, marked, positions, whole_patches
from models.methods.masked.ijepa import TARGETS, draw_blocks
from models.training.randomness import seeded
from tests.models.tiny_vits import CPU, batch_of, images, method_of, pixels_of


@pytest.mark.parametrize("grid", [(4, 4), (5, 5), (7, 7), (8, 8), (14, 14)])
def test_context_holds_no_patch_of_a_target(grid):
    length = grid[0] * grid[1]
    for draw in range(20):
        with seeded("blocks", draw):
            targets, context = draw_blocks(64, grid, CPU)
        count, blocks, size = targets.shape
        assert (count, blocks) == (64, TARGETS) and context.shape == (64, length - TARGETS * size)
        assert size <= 0.2 * length and context.shape[1] >= 0.2 * length
        hidden, seen = marked(targets.flatten(1), length), marked(context, length)
        assert not (hidden & seen).any()
        assert (seen.sum(1) == context.shape[1]).all(), "a patch is there twice"


def test_targets_are_rectangles_of_the_papers_sizes_anywhere():
    areas, ratios, seen = [], [], torch.zeros(196)
    for draw in range(200):
        with seeded("blocks", draw):
            targets, _ = draw_blocks(16, (14, 14), CPU)
        rows, columns = targets // 14, targets % 14
        height = rows.amax(2) - rows.amin(2) + 1
        width = columns.amax(2) - columns.amin(2) + 1
        assert (height * width == targets.shape[2]).all(), "no filled rectangle"
        assert (height == height[0, 0]).all(), "one size for the batch"
        areas.append(targets.shape[2] / 196)
        ratios.append(float(height[0, 0] / width[0, 0]))
        seen += torch.bincount(targets.flatten(), minlength=196)
    assert 0.13 < min(areas) < 0.17 and 0.18 < max(areas) <= 0.2
    assert 0.6 < min(ratios) < 0.85 and 1.3 < max(ratios) < 1.8
    assert (seen > 0).all()


def test_context_takes_all_of_its_block_before_anything_else():
    # A block that is smaller than the context must be seen whole, but for the targets.
    with seeded("blocks"), mock.patch("models.methods.masked.ijepa.CONTEXT_SCALE", (0.25, 0.25)):
        targets, context = draw_blocks(200, (14, 14), CPU)
    accounted = marked(torch.cat([targets.flatten(1), context], dim=1), 196).view(-1, 1, 14, 14)
    filled = F.avg_pool2d(accounted.float(), 7, stride=1) == 1  # squares of 7 x 7
    assert filled.flatten(1).any(1).all()
    hidden = marked(targets.flatten(1), 196).view(-1, 1, 14, 14)
    assert (F.avg_pool2d(hidden.float(), 7, stride=1) < 1).any()


def test_i_jepa_targets_are_layer_normed_tokens_of_the_teacher_without_gradient():
    method = method_of("i-jepa")
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.add_(0.01)  # no longer the encoder
    pixels = whole_patches(method.encoder, images())
    target = method.targets(pixels)
    assert not target.requires_grad
    teacher = method.teacher.parts[0].network.net
    tokens = teacher.forward_features(pixels)[:, 1:]
    expected = (tokens - tokens.mean(2, keepdim=True)) / (
        tokens.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(target, expected, atol=1e-4)
    method.training_step(batch_of(images()))["loss"].backward()
    assert all(weight.grad is None for weight in method.teacher.parameters())


def test_i_jepa_loss_is_the_squared_distance_to_the_targets_of_each_block():
    method, x = method_of("i-jepa"), images()
    with seeded("blocks"):
        output = method.training_step(batch_of(x))
    with seeded("blocks"):
        targets, context = draw_blocks(3, (7, 7), CPU)
    pixels = whole_patches(method.encoder, x)
    everywhere, where = method.targets(pixels), positions((7, 7), 32)
    encoded = encode(method.encoder, keep(method.encoder, embed(method.encoder, pixels), context))
    losses = []
    for n in range(3):
        narrow = method.narrow(encoded[n])
        seen = torch.cat([narrow[:1], narrow[1:] + where[context[n]]])
        for block in targets[n]:
            asked = method.mask_token + where[block]
            answer = method.predictor(torch.cat([seen, asked])[None])[0, -len(block) :]
            losses.append((method.widen(answer) - everywhere[n, block]).square().mean())
    assert output["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_i_jepa_context_encoder_has_no_slope_in_target_pixels():
    method, x = method_of("i-jepa"), images().requires_grad_()
    with seeded("blocks"):
        loss = method.training_step(batch_of(x))["loss"]
    with seeded("blocks"):
        targets, context = draw_blocks(3, (7, 7), CPU)
    (slope,) = torch.autograd.grad(loss, x)
    hidden, seen = marked(targets.flatten(1), 49), marked(context, 49)
    assert (slope[pixels_of(hidden)] == 0).all()
    assert (slope[pixels_of(~seen)] == 0).all()
    assert (slope[pixels_of(seen)] != 0).float().mean() > 0.95
