"""Every method with every family of encoders, held to the same contract."""

import pytest
import torch

from models.encoders import build_encoder
from models.learners import LEARNERS, LinearProbeParams, build_classifier
from models.methods import SimCLRParams, build_method
from models.methods.registry import METHODS
from models.params import EncoderParams, Readout
from models.weights import load_weights, save_weights

PARAMS = {"simclr": SimCLRParams()}
ENCODERS = ["resnet_tiny", "resnet18", "vit_tiny_patch16_224", "convnext_atto"]


def build(name, channels, size, seed=0):
    params = EncoderParams(name=name)
    return build_encoder(params, channels, size, [0.5] * channels, [0.25] * channels, seed=seed)


def views(channels, size, count=4):
    generator = torch.Generator().manual_seed(7)
    return {"views": [torch.rand(count, channels, size, size, generator=generator)] * 2}


def test_every_registered_method_is_held_to_the_contract():
    assert set(PARAMS) == set(METHODS)
    assert set(LEARNERS) == {"finetune", "linear-probe"}


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_step_reaches_every_parameter(method_name, name):
    method = build_method(PARAMS[method_name], build(name, 3, 32), seed=0)
    output = method.training_step(views(3, 32))
    assert output["loss"].shape == ()
    assert torch.isfinite(output["loss"])
    output["loss"].backward()
    for parameter_name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("method_name", METHODS)
def test_a_few_steps_lower_the_loss(method_name):
    method = build_method(PARAMS[method_name], build("resnet_tiny", 1, 28), seed=0)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = method.training_step(views(1, 28, count=16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_their_promised_shapes(name, size, channels):
    encoder = build(name, channels, size).eval()
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        assert encoder(images).shape == (2, encoder.features_dim)
        height, width = encoder.feature_map(images).shape[2:]
        assert height == width >= 1
        for readout in (Readout(), Readout(grid=2), Readout(grid=3, stages=2)):
            dim = encoder.read_out_dim(readout)
            assert encoder.read_out(images, readout).shape == (2, dim)


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_make_the_round_trip(name, tmp_path):
    def classifier(seed):
        return build_classifier(
            LinearProbeParams(readout=Readout(grid=2, stages=2)), build(name, 3, 32, seed), 5
        ).eval()

    saved, loaded = classifier(0), classifier(1)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(saved(images), loaded(images))
        save_weights(saved, tmp_path / "w.safetensors")
        load_weights(loaded, tmp_path / "w.safetensors")
        assert torch.equal(saved(images), loaded(images))
