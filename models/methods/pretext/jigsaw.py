"""Jigsaw puzzles: Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles.

Noroozi, Favaro 2016, https://arxiv.org/abs/1603.09246. An image is cut into 3 x 3 tiles, which are
shown in the order of one of P permutations; which one is the class. The network is context-free: f
sees each tile alone, and only the layers after the concatenation of all nine see them together.

Shortcuts, and what closes each:

- edges that run on from tile to tile: tiles lie at random in their cells, so at least one pixel
  is between them, and how many is unknown;
- brightness and colour, which near tiles share: each channel of each tile is standardised alone;
- chromatic aberration, which tells where in a lens's field a tile was: the channels of a tile
  stray from each other by up to 2 of the paper's 64 pixels, at least one, within the cell (a tile
  that fills it cannot stray). The paper also trains on 30% grey images: `augmentation.grayscale`;
- one permutation that gives itself away by the place of one tile: all P are far from each other.

Accepts any encoder; one that takes a single size gets the tiles resized to it. Tiles are 64/75 of
a cell, and the head's layers those of the paper by 8. P is 64 where the paper has 1000, since
tiles of 8 pixels cannot tell so many orders apart.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, one_view
from models.methods.pretext.geometry import (
    TILES,
    cut_tiles,
    distant_permutations,
    lay_tiles,
    standardise,
    tile_side,
)
from models.methods.pretext.params import JigsawParams
from models.methods.pretext.tiles import draw_offsets, encode_tiles, only_size

SHARE = 64 / 75


class Jigsaw(Method):
    """f is the encoder, `tile_head` fc6 of the paper, `classifier` fc7 and fc8."""

    permutations: Tensor

    def __init__(self, params: JigsawParams, encoder: Encoder):
        super().__init__(encoder)
        self.register_buffer("permutations", distant_permutations(params.permutations).clone())
        self.tile_head = nn.Sequential(
            nn.Linear(encoder.features_dim, params.tile_dim), nn.ReLU(inplace=True)
        )
        self.classifier = mlp(TILES * params.tile_dim, params.hidden, params.permutations)
        self.only_size = only_size(encoder)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict by which permutation the tiles of each image were shuffled."""
        tiles, labels = self._shuffled(one_view(batch))
        logits = self._solve(tiles)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "metrics": {"accuracy": accuracy}}

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show the tiles shuffled, and in the order that is predicted of them."""
        tiles, _ = self._shuffled(images)
        order = self.permutations[self._solve(tiles).argmax(1)]
        side = images.shape[-1]
        return {
            "shuffled tiles": lay_tiles(tiles, side),
            "put in order as it believes": lay_tiles(put_in_order(tiles, order), side),
        }

    def _shuffled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.randint(len(self.permutations), (len(images),), device=images.device)
        tile = tile_side(images.shape[-1], SHARE)
        offsets = draw_offsets(images, tile, TILES, jitter=max(1, tile // 32))
        return cut_tiles(images, tile, self.permutations[labels], offsets), labels

    def _solve(self, tiles: Tensor) -> Tensor:
        tiles = standardise(tiles)
        features = self.tile_head(encode_tiles(self.encoder, tiles, self.only_size))
        return self.classifier(features.flatten(1))


def put_in_order(tiles: Tensor, orders: Tensor) -> Tensor:
    """Bring tiles (N, 9, ...) cut from the places `orders` (N, 9) back to where they were."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], orders.argsort(dim=1)]
