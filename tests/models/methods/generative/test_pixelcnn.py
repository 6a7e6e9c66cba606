"""PixelCNN knows what comes before and the features, nothing else; its bits and samples."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.methods import build_method
from models.methods.generative.params import PixelCNNParams
from models.methods.generative.pixelcnn import PixelDecoder
from models.training.randomness import seeded
from tests.models.easy_images import small_encoder
from tests.models.small_images import images, noise, output, train


def pixel_decoder(channels=2, layers=2, levels=4):
    torch.manual_seed(0)
    return PixelDecoder(channels, levels, 8, layers, 5).double().eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_value_depends_on_all_before_it_within_reach_and_on_none_after(channels):
    decoder, size = pixel_decoder(channels), 12
    values = noise(1, channels, size, size).double().requires_grad_()
    code = noise(1, 5).double()
    reach = 3 + 2 * 1  # the first layer's, and one for each of the two others
    for row, column, channel in [(0, 0, 0), (0, 7, 0), (6, 5, 0), (11, 11, channels - 1)]:
        logits = decoder(values, code)[0, :, channel, row, column]
        (slope,) = torch.autograd.grad((logits * noise(4).double()).sum(), values)
        for i in range(size):
            for j in range(size):
                for k in range(channels):
                    before = (i, j, k) < (row, column, channel)
                    near = row - i <= reach and abs(column - j) <= reach
                    expected = before and (near or (i, j) == (row, column))
                    where = (row, column, channel), (i, j, k)
                    assert (slope[0, k, i, j] != 0).item() == expected, where


def test_every_value_depends_on_the_code_in_both_stacks():
    decoder = pixel_decoder()
    code = noise(1, 5).double().requires_grad_()
    decoder(noise(1, 2, 6, 6).double(), code)[0, 0, 1, 3, 3].backward()
    assert (code.grad != 0).all()
    for layer in decoder.layers:
        down, right = layer.given.weight.grad.chunk(2)
        # The last layer's vertical state goes nowhere but on.
        assert (down != 0).any() == (layer is not decoder.layers[-1])
        assert (right != 0).any()


def test_uniform_prediction_costs_the_logarithm_of_the_levels():
    method = build_method(PixelCNNParams(levels=8), small_encoder(), seed=0)
    torch.nn.init.zeros_(method.decoder.head.logits.weight)
    torch.nn.init.zeros_(method.decoder.head.logits.bias)
    found = output(method, images())
    for name in ("bits_per_dim", "bits_per_dim_given"):
        assert found["metrics"][name].item() == pytest.approx(3)
    assert found["loss"].item() == pytest.approx(3 * math.log(2))


def test_bits_are_those_of_the_predicted_probabilities_in_plain_loops():
    params = PixelCNNParams(levels=4, width=8, layers=1, side=4, alone=0.5)
    method = build_method(params, small_encoder(), seed=0).eval()
    x = images(2)
    levels = method.quantise(x)
    assert levels.shape == (2, 1, 4, 4)
    small = F.avg_pool2d(x, 4)
    code = method.code(method.encoder(x)) * torch.tensor([[0.0], [1.0]])
    logits = method.decoder(method.values(levels), code)
    bits = [0.0, 0.0]
    for n in range(2):
        for i in range(4):
            for j in range(4):
                level = min(3, int(4 * small[n, 0, i, j].item()))
                assert level == levels[n, 0, i, j]
                likely = logits[n, :, 0, i, j].softmax(0)[level].item()
                bits[n] -= math.log2(likely) / 16
    metrics = output(method, x)["metrics"]
    assert metrics["bits_per_dim"].item() == pytest.approx(bits[0], rel=1e-4)
    assert metrics["bits_per_dim_given"].item() == pytest.approx(bits[1], rel=1e-4)


def test_decoder_is_told_nothing_of_the_share_that_stands_alone():
    method = build_method(PixelCNNParams(alone=0.25), small_encoder(), seed=0)
    x = images(8).requires_grad_()
    seen = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    output(method, x)
    assert (seen[0][:2] == 0).all() and (seen[0][2:] != 0).any(1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sampling_draws_from_what_the_whole_decoder_predicts(channels):
    """Sampling computes row by row; the same logits must come out as of the image at once."""
    params = PixelCNNParams(side=6, levels=4, width=8, layers=2)
    method = build_method(params, small_encoder(channels), seed=0).eval()
    code = noise(3, 100)
    asked = []
    method.decoder.head.register_forward_hook(lambda _, __, result: asked.append(result))
    with torch.no_grad(), seeded(0):
        levels = method.sample(code, (channels, 6, 6))
        stepwise, asked = list(asked), []
        logits = method.decoder(method.values(levels), code)
    assert len(stepwise) == channels * 36
    for number, step in enumerate(stepwise):
        pixel, channel = divmod(number, channels)
        whole = logits[:, :, channel, pixel // 6, pixel % 6]
        assert torch.allclose(step[:, :, channel, 0, 0], whole, atol=1e-5)


def test_sampling_is_a_function_of_its_seed():
    method = build_method(PixelCNNParams(side=6), small_encoder(), seed=0).eval()
    x, drawn = images(2), []
    for seed in (0, 0, 1):
        with torch.no_grad(), seeded(seed):
            drawn.append(method.pictures(x)["drawn from nothing"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_decoder_that_knows_one_image_by_heart_draws_it():
    params = PixelCNNParams(side=5, levels=3, layers=2)
    # In evaluation mode all along: a batch of one image has no statistics.
    method = build_method(params, small_encoder(), seed=0).eval()
    x = noise(1, 1, 5, 5).expand(4, -1, -1, -1)
    train(method, x, 60, lr=1e-2)
    with torch.no_grad(), seeded(0):
        rows = method.pictures(x)
    assert torch.equal(rows["drawn from its features"], rows["shrunk for the decoder"])
    assert torch.equal(rows["drawn from nothing"], rows["shrunk for the decoder"])


def test_features_save_bits_where_they_tell_images_apart():
    params = PixelCNNParams(side=4, levels=4, layers=1, alone=0.5)
    method = build_method(params, small_encoder(), seed=0)
    x = images(32)
    train(method, x, 60, lr=1e-2)
    metrics = output(method, x)["metrics"]
    assert metrics["bits_per_dim_given"] < metrics["bits_per_dim"] - 0.01
