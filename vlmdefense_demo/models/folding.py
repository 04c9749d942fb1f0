"""Frozen batch normalisation as part of the convolution before it: the same function, less work.

In evaluation mode BatchNorm is a scale and a shift a channel, so it can be multiplied into the
convolution once instead of into every image: forward and backward of the embedded tower take about
70 % of the time. Which convolution feeds which normalisation is watched, not guessed from names.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

CLOSE = 1e-4


def fold_batchnorm(tower: nn.Module, size: int) -> nn.Module:
    """A tower that computes the same features without its batch normalisation.

    Args:
        tower: frozen, in evaluation mode; it is not changed.
        size: side of its square input in pixels.

    Returns:
        a copy of the tower, or the tower itself if there is nothing to fold or if the copy's
        features differ by more than rounding.
    """
    device = next(tower.parameters()).device
    probe = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    folded = copy.deepcopy(tower)
    pairs = _pairs(folded, probe)
    if not pairs:
        return tower
    for convolution, name in pairs:
        _fold(folded, convolution, name)
    with torch.no_grad():
        before, after = _features(tower(probe)), _features(folded(probe))
    drift = (after - before).norm() / before.norm()
    return folded.eval().requires_grad_(False) if drift < CLOSE else tower


def _pairs(tower: nn.Module, probe: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions with the name of the normalisation that takes their output."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor too: an id may be used again
    pairs: list[tuple[nn.Conv2d, str]] = []

    def leave(module: nn.Conv2d, _: tuple[Tensor, ...], out: Tensor) -> None:
        outputs[id(out)] = (module, out)

    def enter(name: str, given: tuple[Tensor, ...]) -> None:
        if id(given[0]) in outputs:
            pairs.append((outputs[id(given[0])][0], name))

    hooks = []
    for name, module in tower.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(leave))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: enter(name, x)))
    with torch.no_grad():
        tower(probe)
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(tower: nn.Module, convolution: nn.Conv2d, name: str) -> None:
    norm = tower.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps,
        norm.weight, norm.bias,
    )  # fmt: skip
    parent, _, own = name.rpartition(".")
    # timm's normalisation carries the activation that follows it.
    setattr(tower.get_submodule(parent), own, getattr(norm, "act", nn.Identity()))


def _features(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
