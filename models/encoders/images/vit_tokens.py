"""The tokens of a plain timm ViT inside an encoder, for methods that hide some of them.

Tokens are (N, P + L, D): first the P prefix tokens (class, registers), then those of L patches,
row by row. `ids` (N, K) int64 name patches from 0 to L - 1, in any order.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.errors import ModelError

SMALLEST_GRID = 4


def require_vit(encoder: Encoder, method: str) -> Any:
    """Give the timm model inside the encoder, or refuse it.

    Args:
        encoder: Of any kind.
        method: Name of the method that asks, for the message.

    Raises:
        ModelError: It is not a plain ViT, is pooled by more than its tokens, or cuts images into
            too few patches.
    """
    plain = getattr(encoder.network, "resamples_positions", False)
    if not plain or _vit(encoder).attn_pool is not None:
        raise ModelError(
            f"{method} hides tokens of a plain ViT from it; set pretrain.encoder.name to test_vit "
            "or another vit_* of timm, with a small patch_size, or choose the method simmim, "
            "which suits CNNs",
            {"pretrain.encoder.name": "test_vit"},
        )
    _require_grid(-(-encoder.size // patch_side(encoder)), encoder.size)
    return _vit(encoder)


def patch_side(encoder: Encoder) -> int:
    """Height and width of a patch in pixels."""
    return _vit(encoder).patch_embed.patch_size[0]


def whole_patches(encoder: Encoder, images: Tensor) -> Tensor:
    """Normalise images and fill them up to whole patches with the mean colour.

    Args:
        encoder: With a ViT.
        images: (N, C, H, W) in [0, 1].

    Returns:
        (N, C, h * p, w * p), for a grid of h x w patches of p pixels; L is h * w.
    """
    side = patch_side(encoder)
    height, width = images.shape[2:]
    _require_grid(-(-min(height, width) // side), min(height, width))
    return F.pad(encoder.normalise(images), (0, -width % side, 0, -height % side))


def grid_of(encoder: Encoder, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of patches in what `whole_patches` gives."""
    side = patch_side(encoder)
    return pixels.shape[2] // side, pixels.shape[3] // side


def embed(
    encoder: Encoder,
    pixels: Tensor,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Turn pixels into tokens that know their position and have not met yet.

    Args:
        encoder: With a ViT.
        pixels: What `whole_patches` gives.
        hidden: Which patches a mask token stands in for, (N, L) bool, and the token (D,); they keep
            their position.

    Returns:
        (N, P + L, D).
    """
    vit = _vit(encoder)
    x = vit.patch_embed(pixels)  # (N, h, w, D)
    if hidden is not None:
        masked, mask_token = hidden
        x = torch.where(masked.view(*x.shape[:3], 1), mask_token, x)
    return vit.norm_pre(vit._pos_embed(x))


def keep(encoder: Encoder, tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick the prefix and the named patches: (N, P + L, D) and (N, K) to (N, P + K, D)."""
    prefix, patches = split(encoder, tokens)
    return torch.cat([prefix, gather(patches, ids)], dim=1)


def split(encoder: Encoder, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Part prefix (N, P, D) and patches (N, L, D)."""
    count = _vit(encoder).num_prefix_tokens
    return tokens[:, :count], tokens[:, count:]


def encode(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Let tokens meet in all blocks, final norm included: (N, P + K, D) to the same shape."""
    vit = _vit(encoder)
    # One of the two norms is the identity: models that pool by the mean norm afterwards.
    return vit.fc_norm(vit.norm(vit.blocks(tokens)))


def last_layers(encoder: Encoder, tokens: Tensor, count: int) -> list[Tensor]:
    """Give the patches' tokens (N, L, D) after each of the last `count` blocks, without norm."""
    blocks = list(_vit(encoder).blocks)
    layers = []
    for number, block in enumerate(blocks):
        tokens = block(tokens)
        if number >= len(blocks) - count:
            layers.append(split(encoder, tokens)[1])
    return layers


def gather(x: Tensor, ids: Tensor) -> Tensor:
    """Pick rows by image: (N, L, D) and (N, K) to (N, K, D)."""
    return x.gather(1, ids.unsqueeze(2).expand(-1, -1, x.shape[2]))


def scatter(x: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Put rows (N, K, D) in the place of those that ids (N, K) name, in a copy of x (N, L, D)."""
    return x.scatter(1, ids.unsqueeze(2).expand(-1, -1, x.shape[2]), rows)


def marked(ids: Tensor, length: int) -> Tensor:
    """Turn ids (N, K) into a mask (N, length) bool, true where they are."""
    mask = torch.zeros(len(ids), length, dtype=torch.bool, device=ids.device)
    return mask.scatter(1, ids, True)


def share_of(length: int, share: float) -> int:
    """Round a share of some patches to a count that leaves at least one in and one out."""
    return min(max(round(share * length), 1), length - 1)


def in_blocks(
    images: int, grid: tuple[int, int], count: int, block: int, device: torch.device
) -> Tensor:
    """Draw patches that lie in square blocks, overlapping and anywhere.

    Blocks join in random order until there are `count` patches, the last in part.

    Args:
        images: N.
        grid: Rows and columns of patches.
        count: K patches of each image.
        block: Height and width of a block in patches; at the border it is cut.
        device: Where the ids shall be.

    Returns:
        Ids (N, K).
    """
    height, width = grid
    # The order in which a block joins stands at its centre, and spreads over the block.
    order = torch.rand(images, 1, height, width, device=device)
    joined = F.max_pool2d(order, block, stride=1, padding=block // 2)[:, :, :height, :width]
    # Which patches of the last block join is drawn too; the first ones would favour a corner.
    return (joined + 1e-5 * torch.rand_like(joined)).flatten(1).topk(count).indices


def patchify(pixels: Tensor, side: int) -> Tensor:
    """Cut pixels (N, C, h * p, w * p) into patches (N, h * w, p * p * C) of side p."""
    count, channels, height, width = pixels.shape
    x = pixels.reshape(count, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, side * side * channels)


def unpatchify(patches: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Lay patches (N, h * w, p * p * C) out as pixels (N, C, h * p, w * p)."""
    height, width = grid
    x = patches.reshape(len(patches), height, width, side, side, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height * side, width * side)


def positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Give fixed sine and cosine positions (h * w, dim), half of the row, half of the column.

    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762, section 3.5), in two dimensions as in
    MAE; `dim` is a multiple of 4.
    """
    quarter = dim // 4
    rates = 10000 ** (-torch.arange(quarter) / quarter)
    ys, xs = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    angles = torch.cat([ys.reshape(-1, 1) * rates, xs.reshape(-1, 1) * rates], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def transformer(dim: int, depth: int) -> nn.Sequential:
    """Build transformer blocks and a final norm, (N, L, dim) to the same shape, as MAE does."""
    from timm.models.vision_transformer import Block  # timm takes seconds to import

    network = nn.Sequential(
        *(Block(dim, num_heads=max(1, dim // 32), qkv_bias=True) for _ in range(depth)),
        nn.LayerNorm(dim),
    )
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def _vit(encoder: Encoder) -> Any:
    return encoder.network.net


def _require_grid(patches: int, pixels: int) -> None:
    if patches < SMALLEST_GRID:
        largest = max(1, pixels // SMALLEST_GRID)
        raise ModelError(
            f"{pixels} pixels make {patches} patches a side, too few to hide some; set "
            f"pretrain.encoder.patch_size to {largest} or less, or a larger view_size",
            {"pretrain.encoder.patch_size": largest},
        )
