"""How attention leads from the pooled feature of a ViT back to its patches, through all layers.

Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_plain_vit(tower: Any) -> bool:
    """Whether it is a ViT of plain layers whose attention open_clip exposes."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    return (
        len(blocks) > 0
        and all(isinstance(getattr(b, "attn", None), nn.MultiheadAttention) for b in blocks)
        and tower.transformer.batch_first
        and tower.attn_pool is None
    )


def rollout(tower: Any, x: Tensor) -> Tensor:
    """(B, 3, H, W) already normalised -> (B, h, w) shares of the pooled feature's attention.

    What a patch keeps through its residual connection counts as much as what it attends to. The
    patches of an image share 1, less what the class token holds of itself.

    Args:
        tower: an open_clip image tower, a plain ViT.
    """
    x = tower._embeds(x)
    layers = []
    for block in tower.transformer.resblocks:
        y = block.ln_1(x)
        layers.append(block.attn(y, y, y, need_weights=True)[1])  # the mean over heads
        x = block(x)
    joint = joined(layers)
    row = joint[:, 0, 1:] if tower.pool_type == "tok" else joint[:, 1:, 1:].mean(1)
    return row.unflatten(1, tower.grid_size)


def joined(layers: list[Tensor]) -> Tensor:
    """Attention (B, L, L) of each layer, first to last -> (B, L, L): output token by input token."""
    own = torch.eye(layers[0].shape[-1], device=layers[0].device)
    joint = own.expand_as(layers[0])
    for weights in layers:
        joint = (weights + own) / 2 @ joint
    return joint
