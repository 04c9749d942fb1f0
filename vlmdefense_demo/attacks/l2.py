"""Projected gradient descent in the L2 ball: few pixels may change a lot, many a little.

Source: Madry et al., ICLR 2018 (arXiv 1706.06083). From the same start the loop with
`keep="last"` is bit-identical to torchattacks. The 8-bit file is re-projected by `Ball.quantise`, because
rounding 150,000 values adds a length of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Ascent, Move, logit_objective
from vlmdefense_demo.attacks.base import Attacker, Radius
from vlmdefense_demo.attacks.rows import choose
from vlmdefense_demo.geometry import Ball, l2_length, project_l2
from vlmdefense_demo.losses import LOSSES
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Goal, Images, LogitFn

TINY = 1e-10


def l2_move(x0: Images, radius: float, step_size: float) -> Move:
    """One step of length `step_size` along the gradient, projected back into the ball."""

    def move(x: Images, gradient: Tensor) -> Images:
        ahead = x + (gradient / (l2_length(gradient) + TINY)).mul_(step_size)
        return project_l2(ahead, x0, radius)

    return move


@dataclass(frozen=True)
class PGDL2(Attacker):
    """Steps along the normalised gradient, each projected back into the L2 ball.

    Update: x <- clip(P(x + a g / ||g||)), N times, with a = 2.5 radius / N. Restarts begin at a
    random direction of length radius. Costs N + 1 forwards and N backwards per start.
    """

    radius: Radius = 3.0
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 20
    restarts: Annotated[int, Range(0, 10, 1), "extra starts from random noise"] = 0
    loss: Annotated[str, Choice(("ce", "margin")), "what is ascended"] = "ce"
    stop_early: Annotated[bool, "stop one logit past the boundary"] = False

    @property
    def ball(self) -> Ball:
        """The L2 ball."""
        return Ball("l2", self.radius)

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        objective = logit_objective(target, goal, LOSSES[self.loss])
        move = l2_move(x, self.radius, 2.5 * self.radius / self.steps)
        ascend = Ascent(
            self.steps,
            enough=PAST_BOUNDARY if self.stop_early else torch.inf,
            judge_last=True,
        )
        images, best = ascend(objective, move, x, run)
        for i in range(self.restarts):
            if bool((best >= ascend.enough).all()):
                break
            again = run.child(f"restart{i + 1}")
            noise = again.normal(x)
            start = project_l2(x + self.radius * noise / l2_length(noise), x, self.radius)
            candidate, value = ascend(objective, move, start, again)
            better = (value > best) & (best < ascend.enough)
            images = choose(better, candidate, images)
            best = torch.maximum(best, value)
        return images
