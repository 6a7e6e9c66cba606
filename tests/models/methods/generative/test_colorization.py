"""Colours as classes: which, how rare, and what never sees them."""

import math

import pytest
import torch

from models.errors import ModelError
from models.methods import build_method
from models.methods.generative.colorization import chroma, luma, to_rgb
from models.methods.generative.params import ColorizationParams
from tests.models.easy_images import easy_images, plain_augment, small_encoder
from tests.models.small_images import images, noise, output, train


def test_colours_are_those_of_bt601_in_plain_loops():
    x = noise(2, 3, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                red, green, blue = x[n, :, i, j].tolist()
                y = 0.299 * red + 0.587 * green + 0.114 * blue
                cb = -0.168736 * red - 0.331264 * green + 0.5 * blue
                cr = 0.5 * red - 0.418688 * green - 0.081312 * blue
                assert luma(x)[n, 0, i, j].item() == pytest.approx(y, abs=1e-5)
                assert chroma(x)[n, :, i, j].tolist() == pytest.approx([cb, cr], abs=1e-5)
    assert torch.allclose(to_rgb(luma(x), chroma(x)), x, atol=1e-5)


def test_classes_are_the_nearest_colours_of_each_quarter_in_plain_loops():
    method = build_method(ColorizationParams(bins=5), small_encoder(3), seed=0)
    x = noise(2, 3, 16, 16)
    x[:, :, :, 8:] = torch.tensor([0.9, 0.1, 0.2]).view(3, 1, 1)
    found, colours = method.classes(x), method.colours()
    for n in range(2):
        for i in range(4):
            for j in range(4):
                mean = chroma(x[n : n + 1, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]).mean((2, 3))
                distances = [(mean[0] - colour).square().sum().item() for colour in colours]
                assert found[n, i, j] == min(range(25), key=distances.__getitem__)


def test_grey_is_a_class_of_its_own_without_colour():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0)
    grey = noise(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert method.colours()[method.classes(grey)].abs().max() < 1e-6


def test_colorization_sees_no_colour():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0).eval()
    x = images(4, channels=3) * 0.5 + 0.25
    repainted = to_rgb(luma(x), (noise(4, 2, 1, 1) - 0.5) * 0.1)
    assert (x - repainted).abs().max() > 0.05
    assert torch.allclose(luma(x), luma(repainted), atol=1e-6)
    assert torch.allclose(method.scores(x), method.scores(repainted), atol=1e-4)
    seen = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.scores(x)
    assert chroma(seen[0]).abs().max() < 1e-6


def test_rare_colours_weigh_more_and_the_mean_weight_is_one():
    method = build_method(ColorizationParams(bins=3), small_encoder(3), seed=0)
    method.frequency.copy_(torch.tensor([0.9, 0.1, 0, 0, 0, 0, 0, 0, 0]))
    weights = method.weights()
    plain = [1 / (0.5 * p + 0.5 / 9) for p in method.frequency.tolist()]
    scale = sum(p * w for p, w in zip(method.frequency.tolist(), plain, strict=True))
    assert weights.tolist() == pytest.approx([w / scale for w in plain], rel=1e-5)
    assert (method.frequency * weights).sum().item() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]


def test_loss_of_colorization_weighs_each_place_by_its_colour_in_plain_loops():
    method = build_method(ColorizationParams(bins=3), small_encoder(3), seed=0).eval()
    x = noise(2, 3, 16, 16)
    x[0] *= torch.tensor([1.0, 0.2, 0.1]).view(3, 1, 1)
    found = output(method, x)
    scores, classes, weights = method.scores(x), method.classes(x), method.weights()
    total = 0.0
    for n in range(2):
        for i in range(4):
            for j in range(4):
                true = classes[n, i, j]
                logits = scores[n, :, i, j].tolist()
                log_sum = math.log(sum(math.exp(s) for s in logits))
                total += weights[true].item() * (log_sum - logits[true]) / 32
    assert found["loss"].item() == pytest.approx(total, rel=1e-4)
    # It has learned from this batch how frequent colours are.
    counts = torch.bincount(classes.flatten(), minlength=9) / 32
    assert torch.allclose(method.frequency, 0.99 / 9 + 0.01 * counts)


def test_colours_that_are_certain_come_back_in_the_picture():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0).eval()
    x = images(4, channels=3) * 0.1 + 0.4
    red = torch.tensor([0.0, 0.2])
    certain = (method.colours() - red).square().sum(1).argmin()
    torch.nn.init.zeros_(method.head[3].weight)
    torch.nn.init.zeros_(method.head[3].bias)
    method.head[3].bias.data[certain] = 50.0
    rows = method.pictures(x)
    expected = to_rgb(luma(x), method.colours()[certain].view(1, 2, 1, 1))
    assert torch.allclose(rows["coloured"], expected, atol=1e-5)
    assert chroma(rows["grey"]).abs().max() < 1e-6


def test_colorization_learns_which_shape_has_which_colour():
    x, labels = easy_images(32)
    x = plain_augment(x, 0).expand(-1, 3, -1, -1) * 0.6
    tint = torch.tensor([[1.6, 0.8, 0.8], [0.8, 1.6, 0.8], [0.8, 0.8, 1.6], [1.4, 1.4, 0.5]])
    x = (x * tint[labels][:, :, None, None]).clamp(0, 1)
    method = build_method(ColorizationParams(), small_encoder(3), seed=0)
    train(method, x, 60)
    metrics = output(method, x)["metrics"]
    assert metrics["colour_accuracy"] > metrics["commonest_colour"] + 0.2


@pytest.mark.parametrize("channels", [1, 5])
def test_colorization_of_images_without_colours_is_refused(channels):
    with pytest.raises(ModelError, match="set data.channels to 3"):
        build_method(ColorizationParams(), small_encoder(channels), seed=0)


# PixelCNN.
