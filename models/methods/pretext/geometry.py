"""Turning images, cutting them into tiles, and rotations as numbers."""

import itertools
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 3  # tiles a side
TILES = GRID * GRID


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each image counter-clockwise by so many right angles, exactly.

    Args:
        images: (N, C, S, S).
        turns: (N,) int64; negative ones turn clockwise.

    Returns:
        (N, C, S, S); every pixel is one of the image's, so nothing is interpolated.
    """
    all_four = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
    return all_four[turns % 4, torch.arange(len(images), device=images.device)]


def turn(images: Tensor, angles: Tensor, shifts: Tensor, fill: Tensor) -> Tensor:
    """Turn each image counter-clockwise by any angle, and cut a disc out of it.

    The disc is the same whatever the angle and never reaches beyond the image, so that neither
    corners nor a border tell the angle.

    Args:
        images: (N, C, S, S).
        angles: (N,) in radians.
        shifts: (N, 2) pixels, right and down, by which the image is moved before it is turned; at
            most 0.5 either way.
        fill: Colour around the disc, broadcast to the images.

    Returns:
        (N, C, S, S).
    """
    side = images.shape[-1]
    cos, sin = angles.cos(), angles.sin()
    at = torch.arange(side, device=images.device) - (side - 1) / 2
    cos, sin, (right, down) = cos[:, None, None], sin[:, None, None], shifts.T[..., None, None]
    x = cos * at - sin * at[:, None] - right  # (N, S, S), where each pixel was before
    y = sin * at + cos * at[:, None] - down
    # grid_sample's own scale: an image reaches from -1 to 1.
    grid = torch.stack([x, y], dim=-1) * (2 / side)
    turned = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    radius = (side - 1) / 2 - math.sqrt(0.5)  # what no turn and no shift moves over the border
    disc = at.square()[:, None] + at.square() <= radius**2
    return torch.where(disc, turned, fill.expand_as(turned))


def on_circle(angles: Tensor) -> Tensor:
    """Represent angles (N,) in radians as rotations (N, 2): cosine and sine."""
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def angle_of(rotations: Tensor) -> Tensor:
    """The angles (N,) in radians, from -pi to pi, of rotations (N, 2) of any length."""
    return torch.atan2(rotations[:, 1], rotations[:, 0])


def chordal_loss(predicted: Tensor, true: Tensor) -> Tensor:
    r"""Compare rotations by the chord between them: mean of |p/|p| - t|^2 / 2 = 1 - cos(angle).

    The projection p/|p| is the rotation nearest to p, the SVD of Levinson et al. 2020
    (https://arxiv.org/abs/2006.14616) in the plane, where this loss is a quarter of theirs.

    Args:
        predicted: (N, 2), any length but 0.
        true: (N, 2), cosine and sine.

    Returns:
        A scalar: 0 where all are right, 1 by chance, 2 where all are opposite.
    """
    return 1 - F.cosine_similarity(predicted, true, dim=1).mean()


def geodesic_degrees(predicted: Tensor, true: Tensor) -> Tensor:
    """The angles (N,) between rotations (N, 2) of any length, from 0 to 180 degrees."""
    cross = true[:, 0] * predicted[:, 1] - true[:, 1] * predicted[:, 0]
    return torch.rad2deg(torch.atan2(cross, (true * predicted).sum(1)).abs())


def tile_side(side: int, share: float) -> int:
    """Side of the tiles of an image of this side: `share`, below 1, of a cell's."""
    return max(1, int(share * (side // GRID)))


def tile_slack(side: int, tile: int) -> int:
    """How far a tile can lie from its cell's upper left and still not touch the next cell."""
    return side // GRID - tile - 1


def cut_tiles(images: Tensor, tile: int, places: Tensor, offsets: Tensor) -> Tensor:
    """Cut tiles out of cells of a 3 x 3 grid.

    Args:
        images: (N, C, S, S).
        tile: Side of the tiles.
        places: (N, T) int64, from which cells of each image: 0 to 8, row by row.
        offsets: (N, T, C, 2) int64 rows and columns from a cell's upper left to its tile's, from 0
            to `tile_slack`: at least one pixel lies between the tiles of any two cells.

    Returns:
        (N, T, C, tile, tile).
    """
    count, channels, side = images.shape[:3]
    cell = side // GRID
    start = (side - GRID * cell) // 2
    corners = start + cell * torch.stack([places // GRID, places % GRID], dim=-1)  # (N, T, 2)
    tops, lefts = (corners[:, :, None] + offsets).unbind(-1)  # (N, T, C) each
    along = torch.arange(tile, device=images.device)
    rows = (tops[..., None] + along)[..., :, None]  # (N, T, C, tile, 1)
    columns = (lefts[..., None] + along)[..., None, :]
    image = torch.arange(count, device=images.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(-1, 1, 1)
    return images[image, channel, rows, columns]


def lay_tiles(tiles: Tensor, side: int, fill: float = 1.0) -> Tensor:
    """Lay tiles (N, 9, C, s, s) into the cells of images (N, C, side, side), `fill` between."""
    cell = side // GRID
    before = (cell - tiles.shape[-1]) // 2
    after = cell - tiles.shape[-1] - before
    cells = F.pad(tiles, (before, after, before, after), value=fill)
    count, _, channels = tiles.shape[:3]
    grid = cells.view(count, GRID, GRID, channels, cell, cell).permute(0, 3, 1, 4, 2, 5)
    whole = grid.reshape(count, channels, GRID * cell, GRID * cell)
    start = (side - GRID * cell) // 2
    end = side - GRID * cell - start
    return F.pad(whole, (start, end, start, end), value=fill)


def standardise(tiles: Tensor, floor: float = 0.02) -> Tensor:
    """Give each channel of each tile (..., C, s, s) mean 0 and standard deviation 1.

    Args:
        tiles: Values in [0, 1].
        floor: Added to the deviation, so that an empty tile stays empty.
    """
    centred = tiles - tiles.mean((-2, -1), keepdim=True)
    deviation = centred.square().mean((-2, -1), keepdim=True).sqrt()
    return centred / (deviation + floor)


@lru_cache
def distant_permutations(count: int) -> Tensor:
    """Choose permutations of nine tiles that are far from each other, the same on every call.

    Noroozi and Favaro 2016 (https://arxiv.org/abs/1603.09246), algorithm 1: one after the other,
    the next is the one of largest summed Hamming distance to those chosen. That lets in pairs of
    distance 2 from the 10th on; here the next is the one whose *nearest* is farthest, and the sum
    decides among equals. Then no two of 64 agree on more than 2 tiles, at the same mean distance.

    Args:
        count: At most 9!.

    Returns:
        (count, 9) int64; the first keeps the order.
    """
    candidates = np.array(list(itertools.permutations(range(TILES))), dtype=np.uint8).T.copy()
    nearest = np.full(candidates.shape[1], TILES, dtype=np.int64)
    total = np.zeros_like(nearest)
    chosen = [0]
    while len(chosen) < count:
        distance = (candidates != candidates[:, chosen[-1], None]).sum(0, dtype=np.uint8)
        nearest = np.minimum(nearest, distance)  # 0 for those chosen
        total += distance
        chosen.append(int((nearest * (TILES * count + 1) + total).argmax()))
    return torch.from_numpy(candidates[:, chosen].T.astype(np.int64))
