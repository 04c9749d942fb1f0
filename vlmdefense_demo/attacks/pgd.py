"""Projected gradient descent and its one-step ancestor in the L-infinity ball.

Sources: FGSM, Goodfellow et al., ICLR 2015 (arXiv 1412.6572); PGD, Madry et al., ICLR 2018
(arXiv 1706.06083). Differs from common libraries in what it returns, not in how it steps: the
first step starts at the clean image, step sizes are whole grey levels, and the best iterate is
kept. From a uniform start the loop with `keep="last"` is bit-identical to torchattacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Ascent, Move, logit_objective
from vlmdefense_demo.attacks.base import Attacker, Eps, StepSize
from vlmdefense_demo.attacks.rows import choose
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import LEVELS, lattice_step_size, project_linf, sign_step
from vlmdefense_demo.losses import LOSSES
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Goal, Images, LogitFn


def sign_move(x0: Images, eps: float, step_size: float) -> Move:
    """One sign step, projected back into the ball around `x0`."""

    def move(x: Images, gradient: Tensor) -> Images:
        return project_linf(sign_step(x, gradient, step_size), x0, eps)

    return move


@dataclass(frozen=True)
class FGSM(Attacker):
    """One step of the full radius: the instant, weak reference attack.

    Update: x = clip(x0 + eps sign grad CE(x0)).
    """

    eps: Eps = 4 / 255

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        objective = logit_objective(target, goal, LOSSES["ce"])

        def move(x: Images, gradient: Tensor) -> Images:
            return sign_step(x, gradient, self.eps).clamp(0, 1)

        return Ascent(1, keep="last")(objective, move, x, run)[0]


@dataclass(frozen=True)
class PGD(Attacker):
    """Repeated sign steps, each projected back into the ball.

    Update: x <- clip(x0 + clip(x + a sign grad L(x) - x0, -eps, eps)), N times. The first step
    starts at x0, so its forward also reads the clean margin; every restart starts from integer
    noise in {-e..e}. Costs N forwards and N backwards per start (with restarts 1 forward more), less
    when it stops early; stopping early is enough to fool this model, but what is carried over to a defence is then a weak image.
    """

    eps: Eps = 4 / 255
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 10
    step_size: StepSize = 0.0
    restarts: Annotated[int, Range(0, 10, 1), "extra starts from random noise"] = 0
    loss: Annotated[str, Choice(tuple(LOSSES)), "what is ascended"] = "ce"
    stop_early: Annotated[bool, "stop one logit past the boundary"] = False

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball.

        Raises:
            InvalidParameter: a target with the DLR loss, whose sign flip aims at nothing.
        """
        if goal.targeted and self.loss == "dlr":
            raise InvalidParameter(
                "The DLR loss is for untargeted attacks.", "Choose ce or margin for a target."
            )
        objective = logit_objective(target, goal, LOSSES[self.loss])
        move = sign_move(x, self.eps, self.step_size or lattice_step_size(self.eps, self.steps))
        ascend = Ascent(
            self.steps,
            enough=PAST_BOUNDARY if self.stop_early else torch.inf,
            judge_last=self.restarts > 0,
        )
        images, best = ascend(objective, move, x, run)
        for i in range(self.restarts):
            if self.stop_early and bool((best >= PAST_BOUNDARY).all()):
                break
            again = run.child(f"restart{i + 1}")
            noise = again.levels(x, int(self.eps * LEVELS + 1e-6))
            candidate, value = ascend(objective, move, (x + noise).clamp(0, 1), again)
            better = (value > best) & (best < ascend.enough)  # a finished row keeps its image
            images = choose(better, candidate, images)
            best = torch.maximum(best, value)
        return images
