"""Where in an image its features come from: one embedding a location, in the space of the text.

A tower that averages locations and then projects linearly computes the same as one that projects
each location and then averages, so its map is exact (the embedded model). Other towers have only
approximations: a norm applied per location (ConvNeXt), patch tokens put through the projection of
the class token (ViT), values without the attention that pools them (CLIP's ResNets).

`trace` and `salience` ask another question, of the gradient: which locations an answer rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.types import Features

FLAT = 1e-6
TINY = 1e-12
FAINT = 0.2  # of the strongest location; what is weaker than that is left out of a Grad-CAM
CLIPPED = 0.99  # quantile of the patches above which all count the same


@dataclass(frozen=True)
class Trace:
    """An image's features and the activations they were computed from.

    Args:
        features: (B, D) un-normalised, differentiable in `grid`.
        grid: (B, C, h, w) a leaf; nothing before it is differentiated.
        patches: whether these are tokens of patches and not channels of a convolution.
    """

    features: Features
    grid: Tensor
    patches: bool


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
    elif _pools_plainly(tower):
        out = tower.forward_intermediates(x, indices=1, normalize_intermediates=True)
        return out["image_features"], _each(
            lambda c: c @ tower.proj, out["image_intermediates"][-1]
        )
    raise _no_map(tower)


def _pools_plainly(tower: Any) -> bool:
    """Whether this is open_clip's ViT, projected by a matrix and pooled without attention of its own."""
    plain = getattr(tower, "proj", None) is not None and getattr(tower, "attn_pool", None) is None
    return plain and hasattr(tower, "forward_intermediates")


def _no_map(tower: Any) -> MethodFailed:
    return MethodFailed(
        f"{type(tower).__name__} has no map of locations.", "Choose another model for this method."
    )


def _head(tower: Any, grid: Tensor) -> Features:
    # With the classifier, which open_clip makes the projection of towers that have no other.
    return tower.head(tower.trunk.forward_head(grid))


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


def trace(tower: Any, x: Tensor) -> Trace:
    """One pass, split where a gradient says something about locations.

    That is the last grid of a CNN; what the last block of a ViT attends to, because behind it a
    class token has read the patches; the last tokens of a ViT that pools them in another way. All
    lie behind a norm: before one, activation times gradient is zero, as no length passes it.

    Args:
        tower: an open_clip image tower.
        x: (B, 3, H, W) already normalised.

    Raises:
        MethodFailed: the tower has no grid of locations that open_clip exposes.
    """
    with torch.no_grad():
        grid, finish, patches = _split(tower, x)
    with torch.enable_grad():
        grid = grid.detach().requires_grad_()
        return Trace(finish(grid), grid, patches)


def _split(tower: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Features], bool]:
    """Activations (B, C, h, w), what makes features of them, and whether they are patches."""
    if hasattr(tower, "trunk") and hasattr(tower.trunk, "forward_head"):
        grid = tower.trunk.forward_features(x)
        if grid.dim() == 4:
            return grid, lambda g: _head(tower, g), False
        if grid.dim() == 3 and tower.trunk.global_pool != "token":
            prefix = tower.trunk.num_prefix_tokens
            return *_patches(grid, prefix, tower.trunk.patch_embed.grid_size, tower, _head), True
    elif hasattr(tower, "attnpool"):
        grid = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(x)))))
        return grid, tower.attnpool, False
    elif _pools_plainly(tower):
        *blocks, last = tower.transformer.resblocks
        # Another kind of block has norms in other places.
        if hasattr(last, "attention") and tower.transformer.batch_first:
            x = tower._embeds(x)
            for block in blocks:
                x = block(x)
            finish = partial(_last_block, tokens=x)
            return *_patches(last.ln_1(x), 1, tower.grid_size, tower, finish), True
    raise _no_map(tower)


def _patches(
    tokens: Tensor, prefix: int, size: tuple[int, int], tower: Any, finish: Any
) -> tuple[Tensor, Callable[[Tensor], Features]]:
    """(B, prefix + h w, C) tokens -> the grid of patches, and `finish(tower, tokens)` of a grid."""
    first = tokens[:, :prefix]
    grid = tokens[:, prefix:].transpose(1, 2).unflatten(2, size)

    def features(g: Tensor) -> Features:
        return finish(tower, torch.cat([first, g.flatten(2).transpose(1, 2)], dim=1))

    return grid, features


def _last_block(tower: Any, attended: Tensor, *, tokens: Tensor) -> Features:
    """The rest of a ViT: tokens (B, L, d) that enter the last block, and the same, normed."""
    block = tower.transformer.resblocks[-1]
    x = tokens + block.ls_1(block.attention(attended))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return tower._pool(x)[0] @ tower.proj


def salience(seen: Trace, score: Tensor) -> Tensor:
    """How much a score rests on each location: (B, h, w) in [0, 1], 0 where nothing does.

    On the grid of a CNN this is Grad-CAM (Selvaraju et al., ICCV 2017), of which what is below a
    fifth of the maximum is cut off and the rest squared; on patches it is the positive part of
    activation times gradient, clipped at its 0.99 quantile and stretched to [0, 1].

    Args:
        seen: what `trace` gave.
        score: () made from its features, image by image, summed.
    """
    gradient = torch.autograd.grad(score, seen.grid)[0]
    grid = seen.grid.detach()
    if seen.patches:
        values = (grid * gradient).sum(1).relu()
        top = values.flatten(1).quantile(CLIPPED, dim=1)[:, None, None]
        low = values.amin((1, 2), keepdim=True)
        return ((values.minimum(top) - low) / (top - low).clamp_min(TINY)).clamp(0, 1)
    values = _of_maximum((gradient.mean((2, 3), keepdim=True) * grid).sum(1).relu())
    return _of_maximum((values - FAINT).relu()).square()


def contribution(seen: Trace, score: Tensor) -> Tensor:
    """What each location adds to a score, to first order: (B, h, w) >= 0, in units of the score.

    Activation times gradient, summed over channels; what speaks against the score counts as 0. For
    a score that is linear in the grid the values are exact.

    Args:
        seen: what `trace` gave.
        score: () made from its features, image by image, summed.
    """
    return (seen.grid.detach() * torch.autograd.grad(score, seen.grid)[0]).sum(1).relu()


def _of_maximum(values: Tensor) -> Tensor:
    return values / values.amax((1, 2), keepdim=True).clamp_min(TINY)
