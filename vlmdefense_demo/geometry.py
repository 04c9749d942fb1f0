"""Balls around a clean image, and the 8-bit grid that delivered images live on.

All functions treat every image by itself, so a batch equals its single images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.types import Images

LEVELS = 255
HALVINGS = 24
TINY = 1e-3  # of a grey level: what single precision may leave of one

Norm = Literal["linf", "l2", "free"]


@dataclass(frozen=True)
class Ball:
    """The set an attack's file must lie in: radius in pixel units; "free" is the pixel box.

    Raises:
        InvalidParameter: an L-infinity radius that is no whole number of grey levels, or none: what an
            attack found between two levels would be lost in the file.
    """

    norm: Norm
    radius: float = 0.0

    def __post_init__(self) -> None:
        if self.norm == "linf" and self.levels < 1:
            raise InvalidParameter(
                f"eps={self.radius * LEVELS:.3g}/255 rounds to 0 grey levels: the file would be "
                "the original.",
                "Choose at least 1/255.",
            )
        if self.norm == "linf" and abs(self.radius * LEVELS - self.levels) > TINY:
            raise InvalidParameter(
                f"eps={self.radius * LEVELS:.3g}/255 lies between two grey levels, and a file has only "
                "whole ones.",
                f"Choose {self.levels}/255 or {self.levels + 1}/255.",
            )

    @property
    def levels(self) -> int:
        """Whole grey levels inside an L-infinity radius."""
        return int(self.radius * LEVELS + 1e-6)

    @property
    def words(self) -> str:
        """The radius as people write it: "ε 4" in grey levels, "L2 3", or "" where nothing bounds it."""
        sizes = {"linf": f"ε {self.levels}", "l2": f"L2 {self.radius:g}"}
        return sizes.get(self.norm, "")

    def contains(self, x: Images, x0: Images) -> Tensor:
        """(B,) bool: whether images on the grid lie in the ball."""
        delta = (x - x0).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(1) * LEVELS <= self.levels + 1e-3
        if self.norm == "l2":
            return delta.norm(dim=1) <= self.radius * (1 + 1e-6)
        return ((x >= 0) & (x <= 1)).flatten(1).all(1)

    def quantise(self, x: Images, x0: Images) -> Images:
        """Round to whole levels without leaving the ball. `x0` must lie on the 8-bit grid.

        L-infinity: nearest level, clamped to the whole levels inside the radius. L2: rounding can
        lengthen a perturbation, so it is shrunk by bisection until its rounded self fits.
        """
        origin = (x0 * LEVELS).round()
        delta = (x.clamp(0, 1) - x0) * LEVELS
        if self.norm == "linf":
            delta = delta.clamp(-self.levels, self.levels)
        elif self.norm == "l2":
            delta = delta * self._shrink(delta, origin)
        return from_levels((origin + delta.round()).clamp(0, LEVELS).to(torch.uint8))

    def _shrink(self, delta: Tensor, origin: Tensor) -> Tensor:
        """(B, 1, 1, 1) the largest factor at most 1 whose rounded perturbation fits."""
        low = torch.zeros(len(delta), 1, 1, 1, device=delta.device)
        high = torch.ones_like(low)
        factor = high
        for _ in range(HALVINGS):
            rounded = (origin + (factor * delta).round()).clamp(0, LEVELS) - origin
            fits = l2_length(rounded) <= self.radius * LEVELS
            low = torch.where(fits, factor, low)
            high = torch.where(fits, high, factor)
            factor = torch.where(low == 1, low, (low + high) / 2)
        return low


class _InRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def in_range(x: Images) -> Images:
    """Clamped to [0, 1], with the slope of the identity.

    clamp's own is zero on its very bounds, so that no gradient would reach a black or white pixel and
    an attacker who differentiates through a defence could not move it.
    """
    return _InRange.apply(x)


def differentiated(x: Tensor) -> bool:
    """Whether somebody may ask for the gradient at x of what is made of it now."""
    return x.requires_grad and torch.is_grad_enabled()


def passed_by(x: Tensor, changed: Tensor) -> Tensor:
    """What x was changed to, with the slope of x itself (BPDA): the change counts as a constant."""
    return x + (changed - x).detach()


class _Twin(torch.autograd.Function):
    """The values of one function with the slope of another, asked for picture by picture."""

    @staticmethod
    def forward(ctx: Any, x: Images, changed: Images, twin: Callable[[Images], Images]) -> Images:
        ctx.save_for_backward(x)
        ctx.twin = twin
        return changed.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [x] = ctx.saved_tensors
        rows = []
        for row, slope in zip(x.split(1), gradient.split(1), strict=True):
            with torch.enable_grad():
                leaf = row.detach().requires_grad_()
                rows.append(torch.autograd.grad(ctx.twin(leaf), leaf, slope)[0])
        return torch.cat(rows), None, None


def through_twin(x: Images, changed: Images, twin: Callable[[Images], Images]) -> Images:
    """What x was changed to, with the slope of a twin of what changed it.

    The twin is asked when a gradient comes back, and for one picture at a time: its graph may be large.
    """
    made: Images = _Twin.apply(x, changed, twin)
    return made


def l2_length(x: Images) -> Tensor:
    """(B, 1, 1, 1) the L2 norm of every image, whatever its memory order."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def project_linf(x: Images, x0: Images, eps: float) -> Images:
    """The nearest point of the ball of radius `eps` around `x0`, inside [0, 1]."""
    return (x - x0).clamp_(-eps, eps).add_(x0).clamp_(0, 1)


def project_l2(x: Images, x0: Images, radius: float) -> Images:
    """The nearest point of the L2 ball around `x0`, then the pixel box, which only shortens."""
    delta = x - x0
    return (
        delta.mul_((radius / l2_length(delta).clamp_min(1e-12)).clamp_max(1)).add_(x0).clamp_(0, 1)
    )


def sign_step(x: Images, gradient: Tensor, step_size: float) -> Images:
    """One ascent step of L-infinity length `step_size`. A zero gradient moves nothing."""
    return torch.add(x, gradient.sign(), alpha=step_size)


def lattice_step_size(eps: float, steps: int) -> float:
    """2.5 eps / steps in whole grey levels, at least one, at most eps.

    Whole levels keep every iterate on the 8-bit grid, so nothing is lost in the file.
    """
    levels = max(1, round(2.5 * eps * LEVELS / steps))
    return min(levels / LEVELS, eps)


def check_step_size(step_size: float, eps: float) -> None:
    """Refuse sign steps that cross a whole ball of radius `eps`; 0 is no ball to cross.

    Raises:
        InvalidParameter: every step would end on a corner, wherever it starts.
    """
    if 0 < 2 * eps < step_size - 1e-9:
        raise InvalidParameter(
            f"step_size={step_size * LEVELS:g}/255 is wider than the whole ball of "
            f"eps={eps * LEVELS:g}/255.",
            "Choose a step_size of at most twice eps.",
        )


def to_levels(x: Images) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> uint8, rounded to the nearest level (never truncated)."""
    return (x.clamp(0, 1) * LEVELS).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Images:
    """uint8 -> float32 in [0, 1]."""
    return levels.to(torch.float32) / LEVELS
