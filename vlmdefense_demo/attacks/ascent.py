"""Iterative ascent that keeps the best iterate: what the gradient attacks share.

An attack brings an objective (what is ascended, and how far past the boundary an image is) and a
move (one step inside its ball). The loop does the rest: it counts no pass twice, stops as soon as
every image is finished, records the margin, and honours Stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmdefense_demo.attacks.rows import choose
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal, Images, LogitFn, Loss

# One logit: more than another batch size or device can undo.
PAST_BOUNDARY = 1.0
# Asking the device whether all rows are finished waits for it: on a GPU, seldom.
PATIENCE = 5

# iterate -> (B,) the value to ascend, (B,) margin of the goal without gradient (> 0: reached)
Objective = Callable[[Images], tuple[Tensor, Tensor]]
# iterate, gradient -> the next iterate, inside the ball
Move = Callable[[Images, Tensor], Images]


def logit_objective(target: LogitFn, goal: Goal, loss: Loss) -> Objective:
    """Ascend a loss of the logits."""

    def objective(x: Images) -> tuple[Tensor, Tensor]:
        logits = target(x)
        return goal.maximise(logits, loss), goal.maximise(logits.detach(), margin)

    return objective


@dataclass
class Best:
    """The best iterate so far, by margin. One row an image.

    A row past `enough` is finished and keeps its image, however long the rest of the batch takes:
    otherwise a batch would differ from its single images.
    """

    images: Images
    margin: Tensor  # (B,) of the goal: positive = reached
    enough: float

    @classmethod
    def of(cls, x: Images, enough: float) -> Best:
        """Nothing seen yet."""
        return cls(x, torch.full((len(x),), -torch.inf, device=x.device), enough)

    def update(self, x: Images, value: Tensor) -> None:
        """Take over the rows that improved; no host synchronisation."""
        better = value > self.margin
        if self.enough < torch.inf:
            better &= self.margin < self.enough
        self.images = choose(better, x, self.images)
        self.margin = torch.where(better, value, self.margin)

    def finished(self, step: int) -> bool:
        """Whether every row is past `enough`; on a GPU asked every few steps only."""
        if self.enough == torch.inf:
            return False
        patience = 1 if self.margin.device.type == "cpu" else PATIENCE
        return step % patience == 0 and bool((self.margin >= self.enough).all())


@dataclass(frozen=True)
class Ascent:
    """The loop.

    Args:
        keep: "best" returns a successful iterate with the largest margin, or the last iterate if
            none succeeded; "last" returns the last, as torchattacks does.
        enough: an image is finished when it is past the boundary by this many logits.
        judge_last: spend one more forward to read the last iterate's margin.
    """

    steps: int
    keep: Literal["best", "last"] = "best"
    enough: float = torch.inf
    judge_last: bool = False

    def __call__(
        self, objective: Objective, move: Move, start: Images, run: Run
    ) -> tuple[Images, Tensor]:
        """Ascend from `start`.

        Returns:
            the iterates to deliver, and (B,) the best margin seen (-inf where none was seen).
        """
        x = start.detach()
        best = Best.of(x, self.enough)
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                ascended, value = objective(leaf)
                run.record("margin", value)
                best.update(x, value)
                if best.finished(i):
                    break
                gradient = torch.autograd.grad(ascended, leaf, torch.ones_like(ascended))[0]
            x = move(x, gradient)
        else:
            if self.judge_last:
                with torch.no_grad():
                    best.update(x, objective(x)[1])
        if self.keep == "last":
            return x, best.margin
        return choose(best.margin > 0, best.images, x), best.margin
