"""Decoders, and the autoencoders that rebuild: from the code alone, towards the clean image."""

import math

import pytest
import torch

from models.methods import build_method
from models.methods.generative.decoder import Decoder
from models.methods.generative.params import (
    AutoencoderParams,
    DenoisingAutoencoderParams,
    VAEParams,
)
from models.methods.losses import psnr
from models.training.randomness import seeded
from tests.models.easy_images import small_encoder
from tests.models.small_images import images, noise, output, train


@pytest.mark.parametrize("size", [(16, 16), (20, 20), (17, 23), (5, 40), (1, 1)])
@pytest.mark.parametrize("built_for", [8, 16, 28, 64])
def test_decoder_makes_images_of_any_size(built_for, size):
    decoder = Decoder(12, 3, built_for, 4).eval()
    made = decoder(noise(2, 12), size)
    assert made.shape == (2, 3, *size)
    assert ((made > 0) & (made < 1)).all()


def test_fresh_decoder_has_no_grid_in_its_pictures():
    made = Decoder(12, 2, 28, 4).eval()(noise(2, 12), (28, 28))
    blocks = made.unflatten(2, (14, 2)).unflatten(4, (14, 2))
    assert torch.allclose(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    assert blocks[0, 1, :, 0, :, 0].std() > 1e-4


def test_every_pixel_of_a_decoded_image_depends_on_the_vector():
    vector = noise(1, 12).requires_grad_()
    made = Decoder(12, 1, 28, 16).eval()(vector, (28, 28))
    for pixel in made.flatten()[::37]:
        (slope,) = torch.autograd.grad(pixel, vector, retain_graph=True)
        assert (slope != 0).any()


def test_psnr_is_that_of_known_errors():
    assert psnr(torch.tensor(0.01)).item() == pytest.approx(20)
    assert psnr(torch.tensor(1.0)).item() == pytest.approx(0)
    assert torch.isfinite(psnr(torch.tensor(0.0)))


# Autoencoders.


@pytest.mark.parametrize(
    "params", [AutoencoderParams(), DenoisingAutoencoderParams(), VAEParams()], ids=lambda p: p.name
)
def test_autoencoders_learn_to_rebuild(params):
    method, x = build_method(params, small_encoder(), seed=0), images(16)
    before = output(method, x)["metrics"]["psnr"]
    train(method, x, 50)
    after = output(method, x)["metrics"]["psnr"]
    assert after > before + 3
    method.eval()
    with torch.no_grad(), seeded(0):
        rebuilt = method.pictures(x)["rebuilt"]
    mean = ((x - x.mean(0)) ** 2).mean()
    assert ((x - rebuilt) ** 2).mean() < mean / 2


def test_autoencoder_rebuilds_from_its_code_alone():
    method, x = build_method(AutoencoderParams(code=3), small_encoder(), seed=0).eval(), images()
    seen = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss = output(method, x)["loss"]
    (code,) = seen
    assert code.shape == (8, 3)
    difference = x - method.decoder(method.code(method.encoder(x)), x.shape[2:])
    assert loss.item() == pytest.approx(difference.square().mean().item(), rel=1e-5)


def test_denoising_autoencoder_sees_the_corrupted_image_and_aims_at_the_clean_one():
    method = build_method(DenoisingAutoencoderParams(masked=0.5), small_encoder(), seed=0).eval()
    x = images() * 0.9 + 0.1
    seen, made = [], []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.decoder.register_forward_hook(lambda _, __, result: made.append(result))
    found = output(method, x)
    gone = seen[0] == 0
    assert 0.45 < gone.float().mean() < 0.55
    assert torch.equal(seen[0][~gone], x[~gone])
    assert found["loss"].item() == pytest.approx((x - made[0]).square().mean().item(), rel=1e-6)
    noisy = -10 * math.log10((x - seen[0]).square().mean())
    assert found["metrics"]["psnr_corrupted"].item() == pytest.approx(noisy, rel=1e-5)


# VAE.
