"""What makes methods that hide a part of the image work: nothing leaks, targets are right."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from models.encoders import build_encoder
from models.errors import ModelError
from models.methods import build_method
from models.methods.data2vec import contextual_targets
from models.methods.ijepa import TARGETS, draw_blocks
from models.methods.mae import loss_on_masked, per_patch_normalised
from models.methods.params import (
    Data2Vec2Params,
    Data2VecParams,
    IJEPAParams,
    MAEParams,
    SimMIMParams,
)
from models.methods.simmim import mean_on_masked
from models.metrics import feature_std
from models.momentum import MomentumCopy
from models.optimizers import build_optimizer, decay_groups
from models.params import EncoderParams, Readout
from models.randomness import seeded
from models.tokens import (
    embed,
    encode,
    gather,
    grid_of,
    in_blocks,
    keep,
    last_layers,
    marked,
    patchify,
    positions,
    scatter,
    share_of,
    split,
    transformer,
    unpatchify,
    whole_patches,
)
from tests.models.easy_images import easy_images, plain_augment, small_encoder

VIT = EncoderParams(name="test_vit", patch_size=4)
TOKEN_METHODS = {
    "mae": MAEParams(),
    "i-jepa": IJEPAParams(momentum=0.9),
    "data2vec": Data2VecParams(momentum=0.9),
    "data2vec-2": Data2Vec2Params(momentum=0.9),
}
TAUGHT = ["i-jepa", "data2vec", "data2vec-2"]
CPU = torch.device("cpu")


def vit(size=28, channels=1, seed=0, params=VIT):
    return build_encoder(params, channels, size, [0.4] * channels, [0.2] * channels, seed=seed)


def method_of(name, encoder=None):
    return build_method(TOKEN_METHODS[name], encoder or vit(), seed=0)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def images(count=3, size=28, channels=1, seed=0):
    return random(count, channels, size, size, seed=seed).float()


def batch_of(x):
    return {"views": [x], "index": torch.arange(len(x))}


# --- tokens


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_cut_as_the_loop_cuts_them_and_laid_out_again(channels):
    side, pixels = 4, random(2, channels, 8, 12)
    patches = patchify(pixels, side)
    for n in range(2):
        for row in range(2):
            for column in range(3):
                square = pixels[n, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
                spelt_out = [square[:, y, x] for y in range(4) for x in range(4)]
                assert torch.equal(patches[n, row * 3 + column], torch.cat(spelt_out))
    assert torch.equal(unpatchify(patches, side, (2, 3)), pixels)


def test_rows_are_gathered_and_scattered_as_plain_loops_do():
    x, rows = random(3, 5, 2), random(3, 2, 2, seed=1)
    ids = torch.tensor([[4, 0], [1, 3], [2, 1]])
    gathered, scattered, mask = gather(x, ids), scatter(x, ids, rows), marked(ids, 5)
    expected, known = x.clone(), torch.zeros(3, 5, dtype=torch.bool)
    for n in range(3):
        for k in range(2):
            assert torch.equal(gathered[n, k], x[n, ids[n, k]])
            expected[n, ids[n, k]] = rows[n, k]
            known[n, ids[n, k]] = True
    assert torch.equal(scattered, expected)
    assert torch.equal(mask, known)


@pytest.mark.parametrize("size", [28, 32, 30])
@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])  # class token; register, mean pooling
def test_all_tokens_kept_give_what_timm_gives(name, size):
    encoder = vit(size, params=EncoderParams(name=name, patch_size=4)).eval()
    x = images(size=size)
    pixels = whole_patches(encoder, x)
    tokens = encode(encoder, embed(encoder, pixels))
    net = encoder.network.net
    assert torch.allclose(tokens, net.fc_norm(net.forward_features(pixels)), atol=1e-5)
    last = last_layers(encoder, embed(encoder, pixels), 2)
    height, width = grid_of(encoder, pixels)
    for mine, theirs in zip(last, encoder._feature_maps(x, 2), strict=True):
        assert torch.allclose(mine.transpose(1, 2).unflatten(2, (height, width)), theirs, atol=1e-5)


def test_kept_tokens_know_their_position_and_meet_no_others():
    encoder = vit().eval()
    pixels = whole_patches(encoder, images())
    ids = torch.tensor([[5, 40, 0]] * 3)
    tokens = embed(encoder, pixels)
    net = encoder.network.net
    spelt_out = [net.cls_token[0, 0] + net.pos_embed[0, 0]]
    for patch in ids[0].tolist():
        top, left = patch // 7 * 4, patch % 7 * 4
        square = pixels[0, :, top : top + 4, left : left + 4].flatten()
        projected = net.patch_embed.proj.weight.flatten(1) @ square + net.patch_embed.proj.bias
        spelt_out.append(projected + net.pos_embed[0, 1 + patch])
    kept = keep(encoder, tokens, ids)
    assert torch.allclose(kept[0], torch.stack(spelt_out), atol=1e-5)
    alone = net.norm(net.blocks(torch.stack(spelt_out)[None]))
    assert torch.allclose(encode(encoder, kept)[0], alone[0], atol=1e-4)
    order = [0, 3, 1, 2]  # the same set in another order is the same set
    moved = encode(encoder, keep(encoder, tokens, ids[:, [2, 0, 1]]))
    assert torch.allclose(moved, encode(encoder, kept)[:, order], atol=1e-5)


def test_mask_token_replaces_the_patch_and_keeps_its_position():
    encoder, token = vit().eval(), torch.randn(64)
    masked = marked(torch.tensor([[0, 9], [3, 4], [47, 48]]), 49)
    pixels = whole_patches(encoder, images())
    plain, hidden = embed(encoder, pixels), embed(encoder, pixels, (masked, token))
    at = encoder.network.net.pos_embed[0, 1:]
    for n in range(3):
        for patch in range(49):
            expected = token + at[patch] if masked[n, patch] else plain[n, 1 + patch]
            assert torch.allclose(hidden[n, 1 + patch], expected, atol=1e-6)


def test_positions_are_sines_and_cosines_of_row_and_column():
    table = positions((3, 5), 8)
    assert table.shape == (15, 8)
    for row in range(3):
        for column in range(5):
            angles = [place * rate for place in (row, column) for rate in (1.0, 0.01)]
            expected = [f(angle) for f in (math.sin, math.cos) for angle in angles]
            assert table[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.6, 0.75, 0.99])
def test_a_share_is_rounded_and_never_all_or_nothing(share):
    for length in (2, 16, 49, 196):
        count = share_of(length, share)
        assert 1 <= count <= length - 1
        assert abs(count - share * length) <= max(
            0.5, 1 - share * length, 1 + share * length - length
        )


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize(("grid", "count"), [((7, 7), 10), ((14, 14), 39), ((4, 6), 1)])
def test_blocks_hold_exactly_the_share_and_few_of_it_stands_alone(block, grid, count):
    with seeded("mask"):
        ids = in_blocks(1000, grid, count, block, CPU)
    assert ids.shape == (1000, count)
    mask = marked(ids, grid[0] * grid[1])
    assert (mask.sum(1) == count).all()
    assert mask.any(0).all(), "some patch is never drawn"
    if block == 1 or count == 1:
        return
    # All but the last block are whole, so most patches have a neighbour of their kind.
    maps = F.pad(mask.view(-1, 1, *grid).float(), (1, 1, 1, 1))
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    neighbours = F.conv2d(maps, cross).flatten(1)
    assert ((neighbours > 0) & mask).sum() > 0.9 * mask.sum()


def test_a_whole_block_is_a_square_around_its_centre():
    with seeded("mask"):
        ids = in_blocks(50, (9, 9), 9, 3, CPU)
    squares = 0
    for mask in marked(ids, 81).view(50, 9, 9):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        squares += len(rows) == len(columns) == 3
    assert squares >= 15  # those whose first centre is not at the border, mostly


# --- refusals


@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_a_cnn_is_refused_with_the_encoder_to_set_and_the_method_that_suits_it(name):
    remedy = f"^{name} hides .* set pretrain.encoder.name to test_vit .* choose the method simmim"
    for other in ("resnet18", "convnext_atto", "test_vit3"):  # the last pools by attention
        encoder = vit(size=32, params=EncoderParams(name=other, patch_size=None))
        with pytest.raises(ModelError, match=remedy):
            method_of(name, encoder)
    with pytest.raises(ModelError, match=remedy):
        method_of(name, small_encoder())


@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_too_few_patches_are_refused_with_what_to_set(name):
    with pytest.raises(ModelError, match=r"28 pixels make 2 patches .*patch_size to 7 or less"):
        method_of(name, vit(params=EncoderParams(name="test_vit", patch_size=16)))
    with pytest.raises(ModelError, match=r"12 pixels make 3 patches .* larger view_size"):
        method_of(name).training_step(batch_of(images(size=12)))


@pytest.mark.parametrize("name", ["data2vec", "data2vec-2"])
def test_more_layers_than_there_are_are_refused(name):
    params = TOKEN_METHODS[name].model_copy(update={"top_layers": 7})
    with pytest.raises(ModelError, match="6 layers, not 7; lower pretrain.method.top_layers"):
        build_method(params, vit(), seed=0)


@pytest.mark.parametrize("name", TOKEN_METHODS)
@pytest.mark.parametrize("encoder", ["test_vit", "test_vit2"])
def test_views_of_another_size_and_images_that_fill_no_patch_will_do(name, encoder):
    method = method_of(name, vit(30, params=EncoderParams(name=encoder, patch_size=4)))
    for size in (30, 20):
        output = method.training_step(batch_of(images(size=size)))
        assert torch.isfinite(output["loss"])
    method.eval()
    for row in method.pictures(images(size=30)).values():
        assert row.shape == (3, 1, 30, 30)


# --- MAE


def mae_run(method, x):
    """Encoding, prediction, visible ids and mask, drawn anew from the same seed."""
    pixels = whole_patches(method.encoder, x)
    with seeded("mask"):
        visible, masked = method._hide(patchify(pixels, 4))
    encoded = encode(method.encoder, keep(method.encoder, embed(method.encoder, pixels), visible))
    return encoded, method._decode(encoded, visible, (7, 7)), visible, masked


def pixels_of(masked):
    """Mask of patches (N, 49) as a mask of pixels (N, 1, 28, 28)."""
    return masked.view(-1, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)


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


# --- SimMIM


def simmim(encoder=None, **settings):
    return build_method(SimMIMParams(**settings), encoder or small_encoder(), seed=0)


@pytest.mark.parametrize(("size", "side", "ratio"), [(28, 4, 0.6), (16, 4, 0.5), (20, 8, 0.6)])
def test_simmim_hides_exactly_its_share_of_squares(size, side, ratio):
    mask = simmim(mask_ratio=ratio, mask_size=side)._hide(torch.zeros(200, 1, size, size))
    assert mask.shape == (200, 1, size, size)
    count = -(-size // side)
    corners = mask[:, 0, ::side, ::side].flatten(1)
    assert (corners.sum(1) == round(ratio * count**2)).all()
    spread = corners.view(200, count, count).repeat_interleave(side, 1).repeat_interleave(side, 2)
    assert torch.equal(mask[:, 0], spread[:, :size, :size])
    assert (corners.float().mean(0) - ratio).abs().max() < 0.2


@pytest.mark.parametrize("family", ["cnn", "vit"])
def test_simmim_never_sees_hidden_pixels(family):
    method = simmim(small_encoder() if family == "cnn" else vit(16))
    x = images(size=16).requires_grad_()
    with seeded("mask"):
        masked = method._hide(x)
    painted = torch.where(masked, method.colour, x)
    prediction = method._predict(method.encoder.feature_map(painted), x)
    (slope,) = torch.autograd.grad(prediction.square().sum(), x)
    assert (slope[masked] == 0).all()
    assert (slope[~masked] != 0).float().mean() > 0.95


def test_simmim_loss_is_the_absolute_error_of_hidden_pixels():
    method, x = simmim(), images(size=16)
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    with seeded("mask"):
        masked = method._hide(x)
    features = method.encoder.feature_map(torch.where(masked, method.colour, x)).detach()
    weight, bias = method.head.weight.detach().flatten(1), method.head.bias.detach()
    total = squares = count = 0.0
    for n in range(len(x)):
        for row in range(16):
            for column in range(16):
                if not masked[n, 0, row, column]:
                    continue
                at = features[n, :, row // method.scale, column // method.scale]
                inside = row % method.scale * method.scale + column % method.scale
                value = float(weight[inside] @ at + bias[inside])
                error = value - float((x[n, 0, row, column] - 0.4) / 0.2)
                total, squares, count = total + abs(error), squares + (0.2 * error) ** 2, count + 1
    assert output["loss"].item() == pytest.approx(total / count, rel=1e-4)
    assert output["metrics"]["pixel_mse"].item() == pytest.approx(squares / count, rel=1e-4)


def test_mean_on_masked_is_that_of_the_loop_and_has_its_slope():
    values, masked = random(2, 3, 4, 4), random(2, 1, 4, 4, seed=1) > 0.5
    hidden = [float(values[n, c, y, x]) for n, _, y, x in masked.nonzero() for c in range(3)]
    assert mean_on_masked(values, masked).item() == pytest.approx(sum(hidden) / len(hidden))
    other = torch.where(masked, values, 9.0)
    assert torch.equal(mean_on_masked(other, masked), mean_on_masked(values, masked))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: mean_on_masked(v, masked), values)


def test_simmim_leaves_alone_only_what_no_map_depends_on():
    frozen = {
        name: [n for n, w in simmim(vit(32, params=params)).encoder.named_parameters()
               if not w.requires_grad]
        for name, params in {
            "resnet18": EncoderParams(name="resnet18"),
            "vit": VIT,
            "convnext": EncoderParams(name="convnext_atto"),
        }.items()
    }  # fmt: skip
    norm = ["network.net.norm.weight", "network.net.norm.bias"]
    head = ["network.net.head.norm.weight", "network.net.head.norm.bias"]
    assert frozen == {"resnet18": [], "vit": norm, "convnext": head}


def test_simmim_shows_what_it_paints_over_and_pastes_in_what_is_visible():
    method, x = simmim().eval(), images(size=16)
    with seeded("p"), torch.no_grad():
        rows = method.pictures(x)
    with seeded("p"):
        masked = method._hide(x)
    assert torch.equal(rows["masked"], torch.where(masked, 0.4, x))
    assert torch.equal(rows["rebuilt"][~masked], x[~masked])
    assert not torch.allclose(rows["rebuilt"][masked], x[masked], atol=1e-2)


# --- I-JEPA


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
    with seeded("blocks"), mock.patch("models.methods.ijepa.CONTEXT_SCALE", (0.25, 0.25)):
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


# --- teachers


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_moves_by_exactly_its_momentum(name):
    method = method_of(name).double()
    before = [weight.clone() for weight in method.teacher.parameters()]
    for weight in method.encoder.parameters():
        torch.nn.init.normal_(weight)
    method.after_step(0.0)
    students = method.encoder.parameters()
    for old, new, its in zip(before, method.teacher.parameters(), students, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * its, rtol=0, atol=1e-14)
    ripe = [weight.clone() for weight in method.teacher.parameters()]
    method.after_step(1.0)
    assert all(map(torch.equal, ripe, method.teacher.parameters()))


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_not_optimised_and_follows_a_training(name):
    method = method_of(name, vit(16))
    optimised = {id(w) for group in decay_groups(method, 0.1, 0.1) for w in group["params"]}
    assert not {id(w) for w in method.teacher.parameters()} & optimised
    before = [weight.clone() for weight in method.teacher.parameters()]
    for step in range(2):
        with seeded("step", step):
            loss = method.training_step(batch_of(images(size=16)))["loss"]
        loss.backward()
        torch.optim.SGD(method.encoder.parameters(), lr=0.1).step()
        method.after_step(step / 10)
    assert all(weight.grad is None for weight in method.teacher.parameters())
    assert not any(map(torch.equal, before, method.teacher.parameters()))


# --- data2vec


@pytest.mark.parametrize("top", [1, 3, 6])
def test_targets_are_the_mean_of_the_normalised_top_layers(top):
    encoder, x = vit(), images()
    teacher = MomentumCopy(encoder)
    heard = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: heard.append(output))
        for block in encoder.network.net.blocks
    ]
    with torch.no_grad():
        encoder.feature_map(x)
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(3, 49, 64)
    for layer in heard[-top:]:
        for n in range(3):
            for patch in range(49):
                token = layer[n, 1 + patch]
                spread = (token.var(correction=0) + 1e-5).sqrt()
                expected[n, patch] += (token - token.mean()) / spread / top
    target = contextual_targets(teacher, whole_patches(encoder, x), top)
    assert torch.allclose(target, expected, atol=1e-4)
    assert not target.requires_grad


def test_data2vec_hides_exactly_its_share_and_sees_none_of_it():
    method, x = method_of("data2vec"), images().requires_grad_()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    with seeded("mask"):
        hidden, masked = method._hide(whole_patches(method.encoder, x))
    assert (masked.sum(1) == round(0.6 * 49)).all() and hidden.shape == (3, round(0.6 * 49))
    assert output["metrics"]["masked_share"].item() == pytest.approx(29 / 49)
    (slope,) = torch.autograd.grad(output["loss"], x)
    assert (slope[pixels_of(masked)] == 0).all()
    assert (slope[pixels_of(~masked)] != 0).float().mean() > 0.95


def test_data2vec_loss_is_smooth_l1_at_hidden_patches():
    method, x = method_of("data2vec"), images()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    pixels = whole_patches(method.encoder, x)
    with seeded("mask"):
        _, masked = method._hide(pixels)
    target = contextual_targets(method.teacher, pixels, 3)
    tokens = encode(method.encoder, embed(method.encoder, pixels, (masked, method.mask_token)))
    prediction = method.head(split(method.encoder, tokens)[1])
    total = []
    for error in (prediction - target)[masked].flatten().tolist():
        # Equation 2 with beta = 2.
        total.append(error**2 / 4 if abs(error) <= 2 else abs(error) - 1)
    assert output["loss"].item() == pytest.approx(sum(total) / len(total), rel=1e-4)


@pytest.mark.parametrize("masks", [1, 3, 8])
def test_data2vec_2_asks_the_teacher_once_whatever_the_number_of_masks(masks):
    params = Data2Vec2Params(masks=masks)
    method, x = build_method(params, vit(), seed=0), images()
    seen = {"teacher": [], "student": []}
    for who, encoder in (("teacher", method.teacher.parts[0]), ("student", method.encoder)):
        encoder.network.net.blocks[0].register_forward_hook(
            lambda _, inputs, __, who=who: seen[who].append(tuple(inputs[0].shape))
        )
    method.training_step(batch_of(x))
    assert seen["teacher"] == [(3, 50, 64)]
    assert seen["student"] == [(3 * masks, 1 + 10, 64)]  # the class token and what is visible


def test_data2vec_2_student_never_sees_what_every_mask_hides():
    method, x = method_of("data2vec-2"), images().requires_grad_()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    with seeded("mask"):
        visible = method._draw_visible(3, (7, 7), CPU)
    assert visible.shape == (12, 10)
    seen = marked(visible, 49).view(3, 4, 49)
    assert len(seen[0].unique(dim=0)) == 4, "all masks of an image are alike"
    assert output["metrics"]["masked_share"].item() == pytest.approx(39 / 49)
    (slope,) = torch.autograd.grad(output["loss"], x)
    assert (slope[pixels_of(~seen.any(1))] == 0).all()
    assert (slope[pixels_of(seen.any(1))] != 0).float().mean() > 0.95


def test_data2vec_2_prediction_of_a_mask_has_no_slope_in_what_it_hides():
    method = method_of("data2vec-2")
    pixels = whole_patches(method.encoder, images()).requires_grad_()
    visible = method._draw_visible(3, (7, 7), CPU)
    tokens = embed(method.encoder, pixels).repeat_interleave(4, 0)
    encoded = encode(method.encoder, keep(method.encoder, tokens, visible))
    prediction = method._decode(split(method.encoder, encoded)[1], visible, (7, 7))
    for mask in (0, 5, 11):
        (slope,) = torch.autograd.grad(prediction[mask].square().sum(), pixels, retain_graph=True)
        seen = pixels_of(marked(visible[mask : mask + 1], 49))[0]
        assert (slope[mask // 4][~seen] == 0).all()
        assert (slope[mask // 4][seen] != 0).float().mean() > 0.95
        others = [n for n in range(3) if n != mask // 4]
        assert (slope[others] == 0).all()


def test_data2vec_2_loss_is_the_squared_error_of_hidden_patches():
    method, x = method_of("data2vec-2"), images()
    with seeded("mask"):
        output = method.training_step(batch_of(x))
    pixels = whole_patches(method.encoder, x)
    target = contextual_targets(method.teacher, pixels, 3)
    with seeded("mask"):
        visible = method._draw_visible(3, (7, 7), CPU)
        encoded = encode(
            method.encoder,
            keep(method.encoder, embed(method.encoder, pixels).repeat_interleave(4, 0), visible),
        )
        prediction = method._decode(split(method.encoder, encoded)[1], visible, (7, 7))
    errors = []
    for row in range(12):
        for patch in set(range(49)) - set(visible[row].tolist()):
            errors.append((prediction[row, patch] - target[row // 4, patch]).square().mean())
    assert output["loss"].item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


# --- all of them


@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_training_lowers_the_loss_without_collapse(name):
    method = method_of(name, vit(16))
    optimizer = build_optimizer("adamw", decay_groups(method, lr=3e-3, weight_decay=0.01))
    losses = []
    for step in range(40):
        views = [plain_augment(easy_images(32, seed=step)[0], step)]
        with seeded("step", step):
            output = method.training_step({"views": views})
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        method.after_step(step / 40)
        losses.append(output["loss"].item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert feature_std(output["embeddings"].detach()) > 0.05 * 64**-0.5


def test_exported_vit_reads_whole_images():
    method = method_of(
        "mae", vit(params=EncoderParams(**{**VIT.model_dump(), "readout": Readout(grid=2)}))
    )
    assert method.encoder(images()).shape == (3, 4 * 64)
    x = images().requires_grad_()
    (slope,) = torch.autograd.grad(method.encoder(x).square().sum(), x)
    assert (slope != 0).float().mean() > 0.99


def test_transformer_norms_what_it_gives():
    tokens = transformer(32, 2)(torch.randn(2, 5, 32))
    assert torch.allclose(tokens.mean(2), torch.zeros(2, 5), atol=1e-5)
    assert torch.allclose(tokens.var(2, correction=0), torch.ones(2, 5), atol=1e-3)
