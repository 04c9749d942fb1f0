"""Expectation over transformation: ascend the mean loss over a random defence's draws.

Source: Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018 (arXiv 1707.07397).
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import Objective
from vlmdefense_demo.losses import margin
from vlmdefense_demo.types import Goal, Images, LogitFn, Loss

# Draws an image must get past to count as through: one it got past may have been luck.
CONFIRMED = 4


def eot_objective(target: LogitFn, goal: Goal, loss: Loss, draws: int) -> Objective:
    """Mean loss over `draws` calls of a target that draws anew at every call.

    The gradient is taken draw by draw and handed on as the slope of a linear function, so that
    memory holds one draw at a time. The margin is the smallest of the draws: an image that passes in
    the mean of a few may owe it to luck. Where a step has fewer than `CONFIRMED`, the draws of the
    steps before it count, too, so every ascent needs an objective of its own.
    """
    recent: deque[Tensor] = deque(maxlen=math.ceil(CONFIRMED / draws))

    def objective(x: Images) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(x)
        margins: list[Tensor] = []
        for _ in range(draws):
            answer = target(x)
            margins.append(goal.maximise(answer.detach(), margin))
            if answer.requires_grad:
                total += torch.autograd.grad(goal.maximise(answer, loss).sum(), x)[0]
        recent.append(torch.stack(margins).amin(0))
        worst = torch.stack(tuple(recent)).amin(0)
        if len(recent) < (recent.maxlen or 0):
            worst = worst.clamp_max(0)
        return (total / draws * x).flatten(1).sum(1), worst

    return objective
