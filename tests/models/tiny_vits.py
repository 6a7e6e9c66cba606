"""Small ViTs, images for them, and the methods that read tokens."""

import torch

from models.encoders.images.encoder import build_encoder
from models.encoders.params import EncoderParams
from models.methods import build_method
from models.methods.masked.params import Data2Vec2Params, Data2VecParams, IJEPAParams, MAEParams

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


def pixels_of(masked):
    """Mask of patches (N, 49) as a mask of pixels (N, 1, 28, 28)."""
    return masked.view(-1, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
