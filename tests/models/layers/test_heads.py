import pytest
import torch
from torch import nn

from models.layers.heads import mlp


def kinds(head):
    return [type(layer).__name__ for layer in head]


def test_mlp_has_norm_and_relu_between_its_layers_and_none_after():
    assert kinds(mlp(3, 4, 5)) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds(mlp(3, 4, 5, norm=False)) == ["Linear", "ReLU", "Linear"]
    assert kinds(mlp(3, 5)) == ["Linear"]
    assert mlp(3, 4, 4, 5)(torch.rand(6, 3)).shape == (6, 5)


def test_normed_output_is_standardised_and_learns_no_scale():
    head = mlp(3, 4, 5, norm_output=True)
    z = head(100 * torch.rand(64, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(z.mean(0), torch.zeros(5), atol=1e-5)
    assert z.std(0, correction=0).tolist() == pytest.approx([1] * 5, rel=0.01)
    assert not list(head[-1].parameters())


@pytest.mark.parametrize("norm_output", [True, False])
def test_only_layers_before_a_norm_lack_a_bias(norm_output):
    head = mlp(3, 4, 5, norm_output=norm_output)
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is None for layer in linears] == [True, norm_output]
