"""Momentum and input diversity: attacks that carry over to models they never saw.

Sources: MI-FGSM, Dong et al., CVPR 2018 (arXiv 1710.06081); DI-FGSM, Xie et al., CVPR 2019
(arXiv 1803.06978). MI-FGSM is bit-identical to torchattacks, which however divides zero by zero
where the gradient vanishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import Ascent, Move, logit_objective
from vlmdefense_demo.attacks.base import Attacker, Eps
from vlmdefense_demo.filters import shrunk_and_padded
from vlmdefense_demo.geometry import project_linf, sign_step
from vlmdefense_demo.losses import LOSSES
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn

Steps = Annotated[int, Range(1, 200, 1), "gradient steps"]
Decay = Annotated[float, Range(0, 2, 0.1), "how much of the earlier gradients is kept"]


def momentum_move(x0: Images, eps: float, step_size: float, decay: float) -> Move:
    """A sign step along the running sum of gradients of mean size one. Keeps the sum: use once."""
    total = torch.zeros_like(x0)

    def move(x: Images, gradient: Tensor) -> Images:
        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        total.mul_(decay).add_(gradient / size.clamp_min(1e-12))
        return project_linf(sign_step(x, total, step_size), x0, eps)

    return move


@dataclass(frozen=True)
class MIFGSM(Attacker):
    """Sign steps of eps / N along an accumulated gradient.

    Update: m <- m * decay + g / mean|g|; x <- clip(x + (eps / N) sign m).
    """

    eps: Eps = 8 / 255
    steps: Steps = 10
    decay: Decay = 1.0

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        return self.ascend(target, x, goal, run)

    def ascend(self, target: LogitFn, x: Images, goal: Goal, run: Run) -> Images:
        """The loop on any function of the pixels."""
        move = momentum_move(x, self.eps, self.eps / self.steps, self.decay)
        objective = logit_objective(target, goal, LOSSES["ce"])
        return Ascent(self.steps, keep="last")(objective, move, x, run)[0]


@dataclass(frozen=True)
class DIFGSM(MIFGSM):
    """MI-FGSM through a randomly shrunken and shifted image at every step.

    With decay 0 it is the paper's DI-FGSM, else its M-DI-FGSM. Differs from the paper: the image is
    shrunk and padded back to its size, not enlarged, because the models take one size.
    """

    smallest: Annotated[float, Range(0.5, 1, 0.05), "smallest side, share of the image"] = 0.9
    probability: Annotated[float, Range(0, 1, 0.1), "of shrinking in a step"] = 0.5

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        calls = count()
        through: Callable[[Images], Tensor] = lambda pixels: target(  # noqa: E731
            shrunk_and_padded(
                pixels, run.child(f"step{next(calls)}"), self.smallest, self.probability
            )
        )
        return self.ascend(through, x, goal, run)
