"""Expectation over transformation: ascend the mean loss over a random defence's draws.

Source: Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018 (arXiv 1707.07397).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import Objective
from vlmdefense_demo.losses import margin
from vlmdefense_demo.types import Goal, Images, LogitFn, Loss


def eot_objective(target: LogitFn, goal: Goal, loss: Loss, draws: int) -> Objective:
    """Mean loss over `draws` calls of a target that draws anew at every call.

    The gradient is taken draw by draw and handed on as the slope of a linear function, so that
    memory holds one draw at a time. The margin is the smallest of the draws: an image that passes in
    the mean of a few may owe it to luck.
    """

    def objective(x: Images) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(x)
        margins: list[Tensor] = []
        for _ in range(draws):
            answer = target(x)
            margins.append(goal.maximise(answer.detach(), margin))
            if answer.requires_grad:
                total += torch.autograd.grad(goal.maximise(answer, loss).sum(), x)[0]
        return (total / draws * x).flatten(1).sum(1), torch.stack(margins).amin(0)

    return objective
