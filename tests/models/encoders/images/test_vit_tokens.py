"""What methods that read tokens share: patches, positions, masks, what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.encoders.feature_metrics import feature_std
from models.encoders.images.vit_tokens import (
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
    transformer,
    unpatchify,
    whole_patches,
)
from models.encoders.params import EncoderParams, Readout
from models.errors import ModelError
from models.methods import build_method
from models.training.optimizers import build_optimizer, decay_groups
from models.training.randomness import seeded
from tests.models.easy_images import easy_images, plain_augment, small_encoder
from tests.models.tiny_vits import (
    CPU,
    TOKEN_METHODS,
    VIT,
    batch_of,
    images,
    method_of,
    random,
    vit,
)


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
