"""The L-infinity ball around a clean image, and the 8-bit grid it lives on.

All functions are per pixel, so a batch equals its single images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.types import Images

LEVELS = 255


def project_linf(x: Images, x0: Images, eps: float) -> Images:
    """The nearest point of the ball of radius `eps` around `x0`, inside [0, 1]."""
    return (x0 + (x - x0).clamp(-eps, eps)).clamp(0, 1)


def sign_step(x: Images, gradient: Tensor, step_size: float) -> Images:
    """One ascent step of L-infinity length `step_size`. A zero gradient moves nothing."""
    return x + step_size * gradient.sign()


def lattice_step_size(eps: float, steps: int) -> float:
    """2.5 eps / steps in whole grey levels, at least one, at most eps.

    Whole levels keep every iterate on the 8-bit grid, so nothing is lost in the file.
    """
    levels = max(1, round(2.5 * eps * LEVELS / steps))
    return min(levels / LEVELS, eps)


def to_levels(x: Images) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> uint8, rounded to the nearest level (never truncated)."""
    return (x.clamp(0, 1) * LEVELS).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Images:
    """uint8 -> float32 in [0, 1]."""
    return levels.to(torch.float32) / LEVELS


def quantise_toward(x0: Images, x: Images) -> Images:
    """Round a perturbation to whole levels towards `x0`, so that no ball is left.

    Source: x0 + trunc(255 (x - x0) +- 1e-3) / 255. The nudge keeps a whole level that float
    arithmetic left a hair short. `x0` must lie on the 8-bit grid.
    """
    delta = (x - x0) * LEVELS
    whole = torch.trunc(delta + 1e-3 * delta.sign())
    return from_levels((x0 * LEVELS).round().add(whole).clamp(0, LEVELS).to(torch.uint8))
