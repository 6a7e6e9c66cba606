"""What the methods that look at tiles of an image share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.methods.pretext.geometry import tile_slack


def draw_offsets(images: Tensor, tile: int, tiles: int, jitter: int = 0) -> Tensor:
    """Draw where in its cell each tile of images (N, C, S, S) lies.

    Args:
        images: Of which the tiles will be cut.
        tile: Side of the tiles.
        tiles: T, how many of each image.
        jitter: Pixels by which the other channels may stray from the first, within the cell.

    Returns:
        (N, T, C, 2) int64, for `models.methods.pretext.geometry.cut_tiles`.
    """
    count, channels, side = images.shape[:3]
    slack = tile_slack(side, tile)
    offsets = torch.randint(slack + 1, (count, tiles, 1, 2), device=images.device)
    strays = torch.randint(-jitter, jitter + 1, (count, tiles, channels, 2), device=images.device)
    strays[:, :, 0] = 0
    return (offsets + strays).clamp(0, slack)


def only_size(encoder: Encoder) -> int | None:
    """The side of the images that an encoder takes if it takes no other, such as a Swin's."""
    return None if encoder.takes(encoder.size // 3) else encoder.size


def encode_tiles(encoder: Encoder, tiles: Tensor, side: int | None = None) -> Tensor:
    """Map tiles (N, T, C, s, s) to their features (N, T, D).

    Args:
        encoder: f.
        tiles: Of mean 0 and deviation 1, see `geometry.standardise`. They reach the network
            so: what the encoder's own normalisation takes away is added here.
        side: To which tiles are resized first, where the encoder wants another size than theirs.
    """
    flat = tiles.flatten(0, 1)
    if side is not None:
        flat = F.interpolate(flat, side, mode="bilinear")
    features = encoder(torch.addcmul(encoder.mean, flat, encoder.std))
    return features.view(*tiles.shape[:2], -1)
