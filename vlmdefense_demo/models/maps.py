"""Where in an image its features come from: one embedding a location, in the space of the text.

A tower that averages locations and then projects linearly computes the same as one that projects
each location and then averages, so its map is exact (the embedded model). Other towers have only
approximations: a norm applied per location (ConvNeXt), patch tokens put through the projection of
the class token (ViT), values without the attention that pools them (CLIP's ResNets).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.types import Features

FLAT = 1e-6


def locate(tower: Any, x: Tensor) -> tuple[Features, Tensor]:
    """Image features (B, D) and their map (B, D, h, w), both un-normalised, in one pass.

    Args:
        tower: an open_clip image tower.
        x: (B, 3, H, W) already normalised.

    Raises:
        MethodFailed: the tower has no grid of locations that open_clip exposes.
    """
    if hasattr(tower, "trunk") and hasattr(tower.trunk, "forward_head"):
        grid = tower.trunk.forward_features(x)
        if grid.dim() == 4:
            return _head(tower, grid), _each(lambda c: _head(tower, c[:, :, None, None]), grid)
    elif hasattr(tower, "attnpool"):
        grid = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(x)))))
        pool = tower.attnpool
        return pool(grid), _each(lambda c: pool.c_proj(pool.v_proj(c)), grid)
    elif hasattr(tower, "forward_intermediates") and tower.proj is not None:
        out = tower.forward_intermediates(x, indices=1, normalize_intermediates=True)
        return out["image_features"], _each(
            lambda c: c @ tower.proj, out["image_intermediates"][-1]
        )
    raise MethodFailed(
        f"{type(tower).__name__} has no map of locations.", "Choose another model for this method."
    )


def _head(tower: Any, grid: Tensor) -> Features:
    return tower.head(tower.trunk.forward_head(grid, pre_logits=True))


def _each(project: Any, grid: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, D, h, w): a projection of channels, applied at every location."""
    batch, _, height, width = grid.shape
    rows = project(grid.permute(0, 2, 3, 1).flatten(0, 2))
    return rows.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)


def attention(grid: Tensor, text: Features) -> Tensor:
    """How much each location speaks for a text: (B, D, h, w), (B, D) -> (B, h, w) in [0, 1].

    The inner products of an image are stretched to [0, 1]; those of a constant map become 0.
    """
    values = torch.einsum("bdhw,bd->bhw", grid, text)
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / (high - low).clamp_min(FLAT)
