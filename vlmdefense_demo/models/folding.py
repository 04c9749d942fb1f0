"""Frozen batch normalisation as part of the convolution before it: the same function, less work.

In evaluation mode BatchNorm is a scale and a shift a channel, so it can be multiplied into the
convolution once instead of into every image: forward and backward of the embedded tower take about
70 % of the time. Which convolution feeds which normalisation is watched, not guessed from names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

CLOSE = 1e-4


class LiveFold:
    """A tower's function without its batch normalisation, for weights that are still changing.

    The folded weights are computed from the tower's own at every call, so the same parameters are
    trained as without it, in about three quarters of the time.

    Args:
        tower: in evaluation mode, its running statistics frozen for good.
        size: side of its square input in pixels.
    """

    def __init__(self, tower: nn.Module, size: int) -> None:
        self.tower = tower
        folded = fold_batchnorm(tower, size)
        self._folded = None if folded is tower else _Call(folded)
        self._pairs = [] if folded is tower else _names(tower, size)

    def __call__(self, function: Callable[[Any, Tensor], Any], x: Tensor) -> Any:
        """`function(tower, x)`, differentiable in x and in the tower's parameters."""
        if self._folded is None:
            return function(self.tower, x)
        kept = {name for name, _ in self._folded.tower.named_parameters()}
        weights: dict[str, Tensor] = {
            f"tower.{name}": value for name, value in self.tower.named_parameters() if name in kept
        }
        for convolution, norm in self._pairs:
            weight, bias = _folded(self.tower, convolution, norm)
            weights |= {f"tower.{convolution}.weight": weight, f"tower.{convolution}.bias": bias}
        return functional_call(self._folded, weights, (function, x))


class _Call(nn.Module):
    """Lets `functional_call` reach more than a module's forward."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, function: Callable[[nn.Module, Tensor], Any], x: Tensor) -> Any:
        return function(self.tower, x)


def fold_batchnorm(tower: nn.Module, size: int) -> nn.Module:
    """A tower that computes the same features without its batch normalisation.

    Args:
        tower: frozen, in evaluation mode; it is not changed.
        size: side of its square input in pixels.

    Returns:
        a copy of the tower, or the tower itself if there is nothing to fold or if the copy's
        features differ by more than rounding.
    """
    probe = _probe(tower, size)
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


def _probe(tower: nn.Module, size: int) -> Tensor:
    device = next(tower.parameters()).device
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def _names(tower: nn.Module, size: int) -> list[tuple[str, str]]:
    """The pairs by name."""
    name_of = {module: name for name, module in tower.named_modules()}
    return [(name_of[conv], norm) for conv, norm in _pairs(tower, _probe(tower, size))]


def _folded(tower: nn.Module, convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias that make up for the normalisation, as a function of both modules' own."""
    conv: Any = tower.get_submodule(convolution)
    bn: Any = tower.get_submodule(norm)
    gain = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    bias = bn.bias - bn.running_mean * gain
    if conv.bias is not None:
        bias = bias + conv.bias * gain
    return conv.weight * gain.view(-1, 1, 1, 1), bias


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
