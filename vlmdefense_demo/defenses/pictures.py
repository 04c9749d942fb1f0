"""Pictures for the exhibits of defences."""

from __future__ import annotations

from torch import Tensor

from vlmdefense_demo.images import embedded, to_array

SIDE = 160  # pixels of a map's picture


def under_map(x: Tensor, where: Tensor) -> str:
    """A picture (3, H, W) under its map (h, w) in [0, 1], as the base64 of a PNG."""
    from vlmdefense_demo.heatmap import overlay  # matplotlib is slow to import

    return embedded(overlay(to_array(x[None]), where.cpu().numpy()).resize((SIDE, SIDE)))
