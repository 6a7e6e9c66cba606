"""Turned images, shuffled tiles, and what methods learn of them."""

import math

import pytest
import torch

from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams
from models.methods import build_method
from models.methods.pretext.geometry import (
    angle_of,
    chordal_loss,
    cut_tiles,
    distant_permutations,
    geodesic_degrees,
    lay_tiles,
    on_circle,
    quarter_turns,
    standardise,
    tile_side,
    tile_slack,
    turn,
)
from models.methods.pretext.jigsaw import SHARE as JIGSAW_SHARE
from models.methods.pretext.jigsaw import put_in_order
from models.methods.pretext.params import (
    JigsawParams,
    RelativePositionParams,
    RelativeRotationParams,
    RotationParams,
)
from models.methods.pretext.relative_position import SHARE as POSITION_SHARE
from models.methods.pretext.relative_position import SMALLEST, drop_colours, pairs
from models.methods.pretext.relative_rotation import RelativeRotation
from models.methods.pretext.tiles import draw_offsets, encode_tiles, only_size
from models.training.optimizers import build_optimizer, decay_groups
from models.training.randomness import seeded
from tests.models.easy_images import plain_augment, small_encoder

SIZES = [16, 20, 28, 32, 64, 225]


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def in_order(count):
    return torch.arange(9).expand(count, 9)


def degrees(*angles):
    return on_circle(torch.tensor(angles, dtype=torch.float64).deg2rad())


def alike(count, seed):
    """Images of one thing, never turned, each under grain of its own."""
    thing = noise(1, 6, 6, 1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return ((0.7 * thing + 0.3 * noise(count, 24, 24, 1, seed=seed)) * 255).to(torch.uint8)


def step(method, images, seed, optimizer=None):
    """A training step on plain views; gives its metrics."""
    count = 2 if isinstance(method, RelativeRotation) else 1
    views = [plain_augment(images, 2 * seed + view) for view in range(count)]
    with seeded("step", seed):
        output = method.training_step({"views": views, "index": torch.arange(len(images))})
    if optimizer is not None:
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    return {name: value.item() for name, value in output["metrics"].items()}


TINY = [
    RotationParams(),
    JigsawParams(permutations=8, tile_dim=16, hidden=64),
    RelativePositionParams(hidden=32),
    RelativeRotationParams(hidden=64),
]


def learned(settings, images_of, steps, channels=1):
    """Train on new images each step; the last metric's mean over steps that train nothing."""
    method = build_method(settings, small_encoder(channels), seed=0)
    optimizer = build_optimizer("adamw", decay_groups(method, lr=5e-3, weight_decay=0.01))
    for number in range(steps):
        step(method, images_of(64, number), number, optimizer)
    with torch.no_grad():
        results = [step(method, images_of(64, n), n) for n in range(steps, steps + 10)]
    (name,) = results[0]
    return sum(result[name] for result in results) / len(results)


# Turns by right angles


def test_a_quarter_turn_is_counter_clockwise():
    images, turns = noise(8, 2, 5, 5), torch.tensor([0, 1, 2, 3, -1, 5, 2, 1])
    turned = quarter_turns(images, turns)
    for image, times, result in zip(images, turns.tolist(), turned, strict=True):
        for _ in range(times % 4):
            before = image
            image = torch.zeros_like(before)
            for row in range(5):
                for column in range(5):
                    image[:, 4 - column, row] = before[:, row, column]
        assert torch.equal(result, image)


def test_turning_back_by_the_label_restores_the_image():
    images, turns = noise(16, 3, 9, 9), torch.arange(16) % 4
    assert torch.equal(quarter_turns(quarter_turns(images, turns), -turns), images)


def test_turns_do_not_depend_on_the_order_of_the_batch():
    images, turns, order = noise(8, 1, 6, 6), torch.arange(8) % 4, torch.randperm(8)
    turned = quarter_turns(images, turns)
    assert torch.equal(quarter_turns(images[order], turns[order]), turned[order])


def test_rotation_labels_the_turn_that_the_network_sees():
    method = build_method(RotationParams(), small_encoder(), seed=0).double()
    x = noise(5, 1, 16, 16).double()
    output = method.training_step({"views": [x]})
    losses, right = [], []
    # One batch, so that batch norm sees the same images.
    seen = [(image.rot90(turns, (1, 2)), turns) for image in x for turns in range(4)]
    logits = method.classifier(method.encoder(torch.stack([image for image, _ in seen])))
    for row, (_, turns) in zip(logits, seen, strict=True):
        losses.append(-(row[turns] - row.exp().sum().log()))
        right.append(float(row.argmax() == turns))
    assert torch.allclose(output["loss"], sum(losses) / 20, atol=1e-10)
    assert output["metrics"]["accuracy"].item() == pytest.approx(sum(right) / 20)


# Turns by any angle


def test_turn_is_bilinear_in_a_disc():
    images = noise(3, 2, 9, 9).double()
    angles = torch.tensor([0.3, -2.0, 3.0], dtype=torch.float64)
    shifts = torch.tensor([[0.5, -0.2], [0.0, 0.4], [-0.5, -0.5]], dtype=torch.float64)
    turned = turn(images, angles, shifts, torch.tensor(0.25).double())
    for n in range(3):
        cos, sin = math.cos(angles[n]), math.sin(angles[n])
        for row in range(9):
            for column in range(9):
                right, up = column - 4, 4 - row
                if math.hypot(right, up) > 4 - math.sqrt(0.5):
                    assert (turned[n, :, row, column] == 0.25).all()
                    continue
                # What is here now was turned from here, clockwise, and moved from there.
                x = cos * right + sin * up + 4 - float(shifts[n, 0])
                y = 4 - (-sin * right + cos * up) - float(shifts[n, 1])
                left, top = math.floor(x), math.floor(y)
                value = torch.zeros(2, dtype=torch.float64)
                for i in (0, 1):
                    for j in (0, 1):
                        weight = (1 - abs(x - left - j)) * (1 - abs(y - top - i))
                        if weight > 1e-9:
                            value += weight * images[n, :, top + i, left + j]
                assert torch.allclose(turned[n, :, row, column], value, atol=1e-9)


def test_turn_by_right_angles_equals_quarter_turns_in_the_disc():
    images, turns, still = noise(8, 1, 16, 16), torch.arange(8) % 4, torch.zeros(8, 2)
    turned = turn(images, turns * math.pi / 2, still, torch.tensor(-1.0))
    exact = quarter_turns(images, turns)
    inside = turned[0, 0] >= 0
    assert inside.float().mean() > 0.5
    assert torch.allclose(turned[..., inside], exact[..., inside], atol=1e-5)


@pytest.mark.parametrize("size", SIZES[:-1])
def test_the_frame_is_the_same_at_every_angle(size):
    angles = torch.linspace(0, 2 * math.pi, 64)
    shifts = noise(64, 2) - 0.5
    framed = turn(torch.ones(64, 1, size, size), angles, shifts, torch.tensor(0.0))
    assert torch.allclose(framed, framed[:1].round(), atol=1e-5)


def test_views_are_as_sharp_at_every_angle():
    images = noise(512, 1, 24, 24)
    inside = turn(images[:1], torch.zeros(1), torch.zeros(1, 2), torch.tensor(-1.0))[0, 0] >= 0

    def sharpness(angle, shifts):
        turned = turn(images, torch.full((512,), angle), shifts, torch.tensor(0.5))
        return turned[..., inside].var().item()

    shifts = noise(512, 2, seed=1) - 0.5
    at_rest = sharpness(0.0, shifts)
    assert sharpness(math.pi / 4, shifts) == pytest.approx(at_rest, rel=0.04)
    assert sharpness(0.3, shifts) == pytest.approx(at_rest, rel=0.04)
    assert sharpness(0.0, 0 * shifts) > 2 * at_rest  # what gives the angle away


@pytest.mark.parametrize(
    ("first", "second", "between"),
    [(0, 0, 0), (10, 100, 90), (0, 180, 180), (179, -179, 2), (350, 10, 20), (-90, 180, 90)],
)
def test_geodesic_error_of_known_angles(first, second, between):
    a, b = degrees(first), degrees(second)
    for p, t in ((a, b), (b, a), (7 * a, b)):
        assert geodesic_degrees(p, t).item() == pytest.approx(between, abs=1e-6)


def test_geodesic_error_of_guesses_is_ninety_degrees():
    angles = 2 * math.pi * noise(2, 100_000)
    error = geodesic_degrees(on_circle(angles[0]), on_circle(angles[1]))
    assert error.mean().item() == pytest.approx(90, abs=1)


def test_chordal_loss_of_known_angles():
    true = degrees(20, 20, 20)
    for turned, loss in ((0, 0), (60, 0.5), (90, 1), (-90, 1), (180, 2)):
        predicted = torch.tensor([[0.1], [1.0], [30.0]]) * degrees(*[20 + turned] * 3)
        assert chordal_loss(predicted, true).item() == pytest.approx(loss, abs=1e-7)


def test_chordal_loss_is_the_frobenius_distance_of_rotation_matrices():
    predicted, true = noise(6, 2).double() - 0.5, degrees(0, 30, 100, 190, 280, 359)

    def matrix(vector):
        cos, sin = (vector / math.hypot(*vector.tolist())).tolist()
        return torch.tensor([[cos, -sin], [sin, cos]])

    squares = [(matrix(p) - matrix(t)).square().sum() for p, t in zip(predicted, true, strict=True)]
    assert chordal_loss(predicted, true).item() == pytest.approx(sum(squares).item() / 6 / 4)


def test_chordal_loss_has_the_right_gradient():
    predicted = (noise(5, 2).double() - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: chordal_loss(p, degrees(1, 90, 180, 270, 359)), predicted
    )


def test_swapped_views_give_the_opposite_angle():
    method = build_method(RelativeRotationParams(), small_encoder(), seed=0).double()
    x1, x2 = noise(8, 1, 16, 16).double(), noise(8, 1, 16, 16, seed=1).double()
    there, back = method.between(x1, x2), method.between(x2, x1)
    assert angle_of(there).abs().min() > 1e-3
    assert torch.allclose(angle_of(there), -angle_of(back), atol=1e-9)


def test_relative_rotation_regresses_from_the_first_view_to_the_second():
    settings = RelativeRotationParams(hidden=64)
    method = build_method(settings, small_encoder(), seed=0)
    optimizer = build_optimizer("adamw", decay_groups(method, lr=5e-3, weight_decay=0.01))
    for number in range(100):
        step(method, alike(64, number), number, optimizer)
    x, still = plain_augment(alike(64, 100), 0), torch.zeros(64, 2)
    angles, fill = 2 * math.pi * noise(2, 64), method.encoder.mean
    with torch.no_grad(), seeded("pictures"):
        first, second = (turn(x, angle, still, fill) for angle in angles)
        predicted = method.between(first, second)
        shown = method.pictures(x)
    assert geodesic_degrees(predicted, on_circle(angles[1] - angles[0])).mean() < 30
    # Turned back, the second is nearer to the first than before.
    first, second, back = shown.values()
    assert (back - first).square().mean() < 0.75 * (second - first).square().mean()


# Tiles


@pytest.mark.parametrize("share", [JIGSAW_SHARE, POSITION_SHARE])
@pytest.mark.parametrize("size", [8, *SIZES])
def test_tiles_never_share_or_touch_a_pixel_column_or_row(size, share):
    tile, count = tile_side(size, share), 200
    places = torch.arange(size).float()
    columns = places.expand(count, 2, size, size)
    with seeded("tiles"):
        offsets = draw_offsets(columns, tile, 9, jitter=2)
    for images, axis in ((columns, 1), (columns.transpose(2, 3), 0)):
        grid = cut_tiles(images, tile, in_order(count), offsets).unflatten(1, (3, 3))
        for n in (0, 1):
            before, after = grid.select(1 + axis, n), grid.select(1 + axis, n + 1)
            gaps = after.amin((1, 2, 3, 4)) - before.amax((1, 2, 3, 4))
            assert gaps.min() >= 2


def test_tiles_of_the_papers_are_of_their_size():
    assert (tile_side(225, JIGSAW_SHARE), tile_slack(225, 64)) == (64, 10)
    assert tile_side(3 * 144, POSITION_SHARE) == 96
    assert [tile_side(size, JIGSAW_SHARE) for size in (16, 28, 32)] == [4, 7, 8]


def test_tiles_are_cut_where_the_offsets_say():
    images, tile = noise(4, 3, 28, 28), 6
    with seeded("tiles"):
        places, offsets = torch.randint(9, (4, 5)), draw_offsets(images, tile, 5, jitter=1)
    tiles = cut_tiles(images, tile, places, offsets)
    for n in range(4):
        for number, place in enumerate(places[n].tolist()):
            for channel in range(3):
                down, right = offsets[n, number, channel].tolist()
                top, left = 9 * (place // 3) + down, 9 * (place % 3) + right
                square = images[n, channel, top : top + tile, left : left + tile]
                assert torch.equal(tiles[n, number, channel], square)


def test_offsets_use_the_whole_cell_and_channels_stray_within_it():
    with seeded("offsets"):
        offsets = draw_offsets(torch.zeros(500, 3, 75, 75), 20, 9, jitter=2)
        still = draw_offsets(torch.zeros(500, 3, 75, 75), 20, 9)
    assert offsets.min() == 0 and offsets.max() == tile_slack(75, 20) == 4
    strays = offsets - offsets[:, :, :1]
    assert sorted(strays[:, :, 1:].unique().tolist()) == [-2, -1, 0, 1, 2]
    assert (offsets[:, :, 1] != offsets[:, :, 2]).any()
    assert (still == still[:, :, :1]).all()
    shares = still[:, :, 0, 0].flatten().bincount() / 4500
    assert torch.allclose(shares, torch.tensor(0.2), atol=0.03)


def test_tiles_do_not_depend_on_the_order_of_the_batch():
    images, order = noise(6, 2, 16, 16), torch.randperm(6)
    with seeded("tiles"):
        places, offsets = torch.randint(9, (6, 9)), draw_offsets(images, 3, 9)
    tiles = cut_tiles(images, 3, places, offsets)
    again = cut_tiles(images[order], 3, places[order], offsets[order])
    assert torch.equal(again, tiles[order])


@pytest.mark.parametrize("size", SIZES[:-1])
def test_tiles_in_order_are_the_image_with_gaps(size):
    images, tile = noise(4, 3, size, size), tile_side(size, JIGSAW_SHARE)
    middle = torch.full((4, 9, 3, 2), (size // 3 - tile) // 2)
    laid = lay_tiles(cut_tiles(images, tile, in_order(4), middle), size, fill=-1.0)
    assert laid.shape == images.shape
    seen = laid >= 0
    assert torch.equal(laid[seen], images[seen])
    assert seen.sum() == 4 * 3 * (3 * tile) ** 2


def test_the_true_permutation_restores_the_image():
    images, orders = noise(64, 1, 16, 16), distant_permutations(64)
    corners = torch.zeros(64, 9, 1, 2, dtype=torch.int64)
    tiles = cut_tiles(images, 4, in_order(64), corners)
    shuffled = cut_tiles(images, 4, orders, corners)
    restored = lay_tiles(put_in_order(shuffled, orders), 16)
    assert torch.equal(restored, lay_tiles(tiles, 16))
    assert not torch.equal(lay_tiles(shuffled, 16), lay_tiles(tiles, 16))


@pytest.mark.parametrize(("count", "promised"), [(2, 9), (9, 9), (64, 7), (100, 6)])
def test_permutations_are_distinct_and_far_from_each_other(count, promised):
    permutations = distant_permutations(count).tolist()
    assert len(permutations) == len({tuple(p) for p in permutations}) == count
    assert all(sorted(p) == list(range(9)) for p in permutations)
    distances = [
        sum(a != b for a, b in zip(p, q, strict=True))
        for n, p in enumerate(permutations)
        for q in permutations[:n]
    ]
    assert min(distances) == promised
    assert sum(distances) / len(distances) > 8


def test_more_permutations_begin_with_the_fewer():
    distant_permutations.cache_clear()
    few = distant_permutations(20)
    assert torch.equal(distant_permutations(30)[:20], few)
    assert few[0].tolist() == list(range(9))


def test_standardised_tiles_lose_brightness_and_contrast_and_empty_ones_stay_empty():
    tiles = noise(4, 9, 2, 6, 6)
    standard = standardise(tiles, floor=0.0)
    assert standard.mean((-2, -1)).abs().max() < 1e-6
    assert torch.allclose(standard.std((-2, -1), correction=0), torch.tensor(1.0), atol=1e-5)
    scale = 0.1 + noise(4, 9, 2, 1, 1, seed=1)
    assert torch.allclose(standardise(0.3 + scale * tiles, floor=0.0), standard, atol=1e-4)
    assert (standardise(torch.full((1, 9, 1, 4, 4), 0.7)).abs() < 1e-4).all()


def test_tiles_reach_the_network_as_they_were_standardised():
    encoder, seen = small_encoder(), []
    encoder.network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tiles = standardise(noise(2, 9, 1, 5, 5))
    features = encode_tiles(encoder.eval(), tiles)
    assert torch.allclose(seen[0], tiles.flatten(0, 1), atol=1e-5)
    alone = [encode_tiles(encoder, tiles[:, n : n + 1]) for n in range(9)]
    assert torch.allclose(features, torch.cat(alone, dim=1), atol=1e-5)


def test_tiles_are_resized_for_an_encoder_of_one_size():
    fixed = build_encoder(EncoderParams(name="pit_ti_224"), 1, 16, [0.5], [0.2], seed=0)
    assert only_size(fixed) == 16
    assert encode_tiles(fixed, noise(2, 9, 1, 4, 4), 16).shape == (2, 9, fixed.features_dim)
    assert only_size(small_encoder()) is None


# Neighbours


def test_the_label_is_where_the_neighbour_lies():
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    images = torch.zeros(200, 1, 27, 27)
    for row in range(27):
        for column in range(27):
            images[:, :, row, column] = 10 * (row // 9) + column // 9
    with seeded("pairs"):
        patches, labels = pairs(images)
    assert patches.shape == (200, 2, 1, 6, 6)
    assert set(labels.tolist()) == set(range(8))
    for (middle, neighbour), label in zip(patches, labels.tolist(), strict=True):
        down, right = around[label]
        assert (middle == 11).all()
        assert (neighbour == 10 * (1 + down) + 1 + right).all()


@pytest.mark.parametrize(("side", "patch"), [(32, SMALLEST), (90, 20)])
def test_small_patches_are_enlarged_and_others_left(side, patch):
    method, seen = build_method(RelativePositionParams(), small_encoder(), seed=0), []
    method.encoder.network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.training_step({"views": [noise(4, 1, side, side)]})
    assert seen[0].shape == (8, 1, patch, patch)


def test_a_patch_keeps_one_colour():
    patches = 5 + noise(300, 2, 3, 4, 4)
    with seeded("colours"):
        dropped = drop_colours(patches)
    kept = (dropped == patches).all(-1).all(-1)
    assert (kept.sum(-1) == 1).all()
    assert dropped[~kept].std().item() == pytest.approx(0.01, rel=0.05)
    assert (kept[:, 0] != kept[:, 1]).any()  # drawn for each patch
    assert torch.allclose(kept.float().mean((0, 1)), torch.tensor(1 / 3), atol=0.08)
    assert torch.equal(drop_colours(patches[:, :, :1]), patches[:, :, :1])


# Learning


@pytest.mark.parametrize(
    ("settings", "chance", "good"),
    [(TINY[0], 1 / 4, 0.9), (TINY[1], 1 / 8, 0.9), (TINY[2], 1 / 8, 0.35)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_pretext_is_learned_from_images_of_one_thing(settings, chance, good):
    assert learned(settings, alike, 0) < 2 * chance
    assert learned(settings, alike, 30) > good


def ramps(count, seed):
    """Brightness that grows along some direction of each image's own, and noise; no content."""
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    at = torch.linspace(-1, 1, 27)
    slope = angles.cos() * at + angles.sin() * at[:, None]
    grain = torch.randn(count, 27, 27, generator=generator)
    return ((0.5 + 0.25 * slope + 0.1 * grain).clamp(0, 1) * 255).to(torch.uint8)[..., None]


@pytest.mark.parametrize("settings", TINY[1:3], ids=["jigsaw", "relative-position"])
def test_brightness_alone_teaches_nothing(settings):
    # 640 guesses at chance 1/8 are below 0.19 but for one in a hundred thousand.
    assert learned(settings, ramps, 60) < 0.19
