"""Prompts of the image side that are added to what is there, and what a tower computes on its way.

Added prompts start from zero, and zero is the model itself, exactly. They are arguments of the pass:
nothing is written to the model, no hook hangs on it, and every row of a batch may have its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.models.border import edge
from vlmdefense_demo.models.deep_prompts import DEPTH
from vlmdefense_demo.types import Features


def blank(tower: Any, size: int) -> Tensor:
    """The zero prompt of a tower.

    Args:
        size: side of its square input in pixels.

    Returns:
        (depth, d) for open_clip's VisionTransformer: one vector for all tokens that enter a block,
        the class token too, in at most nine blocks; (3, S, S) a frame for every other tower.
    """
    if _has_blocks(tower):
        blocks = len(tower.transformer.resblocks)
        return torch.zeros(min(DEPTH, blocks), tower.transformer.width)
    return torch.zeros(3, size, size)


def watch(tower: Any, x: Tensor, prompts: Tensor) -> tuple[Features, list[Tensor]]:
    """Features through a prompt, and the samples of every watched layer; differentiable in both.

    Args:
        tower: an open_clip image tower.
        x: (B, 3, H, W) already normalised.
        prompts: (B, *blank) one a row.

    Returns:
        un-normalised features (B, D), and one tensor a layer: (B, tokens, d), what enters each
        prompted block, or (B h w, channels), what leaves each stage of a tower without blocks.

    Raises:
        MethodFailed: the stages of this tower are not known.
    """
    if _has_blocks(tower):
        return _through_blocks(tower, x, prompts)
    x = x + prompts * edge(x.shape[-1]).to(x)
    if hasattr(tower, "trunk") and hasattr(tower.trunk, "forward_intermediates"):
        grid, stages = tower.trunk.forward_intermediates(x)
        features = tower.head(tower.trunk.forward_head(grid))
    elif hasattr(tower, "attnpool"):
        grid, stages = tower.stem(x), []
        for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            grid = stage(grid)
            stages.append(grid)
        features = tower.attnpool(grid)
    else:
        raise MethodFailed(
            f"The stages of {type(tower).__name__} are not known.",
            "Choose another model for this method.",
        )
    return features, [stage.permute(0, 2, 3, 1).flatten(0, 2) for stage in stages]


def _through_blocks(tower: Any, x: Tensor, prompts: Tensor) -> tuple[Features, list[Tensor]]:
    transformer = tower.transformer
    other = 0 if transformer.batch_first else 1  # the dimension the blocks want the batch in
    x, seen = tower._embeds(x), []
    for i, block in enumerate(transformer.resblocks):
        if i < prompts.shape[1]:
            x = x + prompts[:, i].unsqueeze(1)
            seen.append(x)
        x = block(x.transpose(0, other)).transpose(0, other)
    pooled, _ = tower._pool(x)
    return pooled if tower.proj is None else pooled @ tower.proj, seen


def _has_blocks(tower: Any) -> bool:
    from open_clip.transformer import VisionTransformer

    return isinstance(tower, VisionTransformer)
