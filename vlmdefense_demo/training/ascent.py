"""The attack every training loop uses: signed steps inside a ball, against frozen parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlmdefense_demo.types import Images


def climb(
    value: Callable[[Images], Tensor],
    x: Images,
    delta: Tensor,
    eps: float,
    step_size: float,
    steps: int,
) -> Images:
    """The last of `steps` steps that raise value(x + delta), as pixels in [0, 1].

    Args:
        value: (B, 3, H, W) -> (B,).
        delta: (B, 3, H, W) where to start, inside the ball.
        eps, step_size: pixel units. steps * step_size >= 2 eps reaches every corner of the ball.
    """
    for _ in range(steps):
        leaf = (x + delta).clamp(0, 1).requires_grad_()
        gradient = torch.autograd.grad(value(leaf).sum(), leaf)[0]
        delta = (delta + step_size * gradient.sign()).clamp(-eps, eps)
    return (x + delta).clamp(0, 1)
