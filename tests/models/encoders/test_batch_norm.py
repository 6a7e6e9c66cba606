"""Statistics of batch norm, measured again on whole images."""

import torch
from torch import nn

from models.encoders.batch_norm import measure_norms
from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams

IMAGES = torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Two norms in a row, with what must not act while they are measured."""

    def __init__(self):
        super().__init__()
        self.first, self.dropout = nn.BatchNorm2d(3), nn.Dropout(0.5)
        self.second = nn.BatchNorm2d(3, momentum=0.3)

    def forward(self, images):
        return self.second(self.dropout(self.first(images)))


def test_each_norm_gets_the_mean_over_batches_of_what_reaches_it():
    network = Network()
    nn.init.constant_(network.first.weight, 2.0)
    nn.init.constant_(network.first.bias, 0.5)
    network(IMAGES * 9 - 4)  # what training left
    measure_norms(network, IMAGES)
    halves = IMAGES[:150], IMAGES[150:]  # as more than 256 go in equal parts
    mean = sum(half.mean((0, 2, 3)) for half in halves) / 2
    variance = sum(half.transpose(0, 1).flatten(1).var(1) for half in halves) / 2
    torch.testing.assert_close(network.first.running_mean, mean)
    torch.testing.assert_close(network.first.running_var, variance)
    # The first norm's outputs have its bias and the square of its weight, batch by batch.
    torch.testing.assert_close(network.second.running_mean, torch.full((3,), 0.5))
    torch.testing.assert_close(network.second.running_var, torch.full((3,), 4.0), atol=2e-3, rtol=0)


def test_nothing_else_of_a_network_changes():
    network = Network().train()
    network.dropout.eval()
    before = [weight.clone() for weight in network.parameters()]
    state = torch.random.get_rng_state()
    measure_norms(network, IMAGES)
    assert (network.first.momentum, network.second.momentum) == (0.1, 0.3)
    assert network.training and network.first.training and not network.dropout.training
    assert all(map(torch.equal, network.parameters(), before))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_measuring_twice_is_measuring_once_and_bytes_count_as_floats():
    bytes_ = (IMAGES * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    encoder = build_encoder(EncoderParams(), 3, 8, [0.5] * 3, [0.2] * 3, seed=0)
    measure_norms(encoder, bytes_)
    once = {name: value.clone() for name, value in encoder.state_dict().items()}
    measure_norms(encoder, bytes_.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(encoder.state_dict(), once)


def test_encoder_without_batch_norm_stays_as_it_is():
    params = EncoderParams(name="test_vit", patch_size=4)
    encoder = build_encoder(params, 3, 8, [0.5] * 3, [0.2] * 3, seed=0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    measure_norms(encoder, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
