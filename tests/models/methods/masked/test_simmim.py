"""SimMIM hides squares of the image itself, and is judged by them alone."""

import pytest
import torch

from models.encoders.params import EncoderParams
from models.methods import build_method
from models.methods.masked.params import SimMIMParams
from models.methods.masked.simmim import mean_on_masked
from models.training.randomness import seeded
from tests.models.easy_images import small_encoder
from tests.models.tiny_vits import VIT, batch_of, images, random, vit


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
