"""Relative position: Unsupervised Visual Representation Learning by Context Prediction.

Doersch, Gupta, Efros 2015, https://arxiv.org/abs/1505.05192. Of an image's 3 x 3 patches the
network sees the middle one and one of its eight neighbours, and predicts which neighbour it is. f
sees each patch alone; only the layers after the concatenation see both (figure 3).

Shortcuts (section 3.1), and what closes each:

- edges that run on from patch to patch: a gap of half a patch on average, at least one pixel,
  and patches at random in their cells;
- brightness, which near patches share: each channel of each patch is standardised alone;
- chromatic aberration, which tells where in a lens's field a patch was: of more than one channel
  each patch keeps one, drawn at random, and has noise of a hundredth of its deviation in the
  others ("color dropping"). So f learns nothing of colour.

Accepts any encoder; one that takes a single size gets the patches resized to it. Patches are 96
of 144 pixels of a cell, and the head's layers those of the paper by 8. Small patches are enlarged:
of 6 pixels, as in an image of 32, a network that halves its map three times leaves a single place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, one_view
from models.methods.pretext.geometry import TILES, cut_tiles, standardise, tile_side
from models.methods.pretext.params import RelativePositionParams
from models.methods.pretext.tiles import draw_offsets, encode_tiles, only_size

SHARE = 96 / 144
MIDDLE = TILES // 2
NEIGHBOURS = TILES - 1
SMALLEST = 14  # pixels, to which smaller patches are enlarged


class RelativePosition(Method):
    """f is the encoder, `patch_head` fc6 of the paper, `classifier` fc7 to fc9."""

    def __init__(self, params: RelativePositionParams, encoder: Encoder):
        super().__init__(encoder)
        self.patch_head = nn.Sequential(
            nn.Linear(encoder.features_dim, params.hidden), nn.ReLU(inplace=True)
        )
        self.classifier = mlp(2 * params.hidden, params.hidden, params.hidden, NEIGHBOURS)
        self.only_size = only_size(encoder)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict where one neighbour of each image's middle lies."""
        patches, labels = pairs(one_view(batch))
        patches = drop_colours(standardise(patches))
        side = self.only_size or (SMALLEST if patches.shape[-1] < SMALLEST else None)
        features = self.patch_head(encode_tiles(self.encoder, patches, side))
        logits = self.classifier(features.flatten(1))
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "metrics": {"accuracy": accuracy}}


def pairs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the middle patch of each image and one of its neighbours.

    Args:
        images: (N, C, S, S).

    Returns:
        (N, 2, C, s, s), and which neighbour it is: (N,) from 0 to 7, row by row.
    """
    labels = torch.randint(NEIGHBOURS, (len(images),), device=images.device)
    neighbours = labels + (labels >= MIDDLE)
    places = torch.stack([torch.full_like(labels, MIDDLE), neighbours], dim=1)
    tile = tile_side(images.shape[-1], SHARE)
    return cut_tiles(images, tile, places, draw_offsets(images, tile, 2)), labels


def drop_colours(patches: Tensor) -> Tensor:
    """Leave each patch of (..., C, s, s), of deviation 1, one channel; the others become noise."""
    channels = patches.shape[-3]
    if channels == 1:
        return patches
    kept = torch.randint(channels, (*patches.shape[:-3], 1, 1, 1), device=patches.device)
    channel = torch.arange(channels, device=patches.device)[:, None, None]
    return torch.where(channel == kept, patches, 0.01 * torch.randn_like(patches))
