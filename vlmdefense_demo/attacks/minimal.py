"""DDN: how small can a perturbation be? The ball shrinks while the attack wins, grows while not.

Source: Rony et al., "Decoupling Direction and Norm", CVPR 2019 (arXiv 1811.09600). Rounding to 256
levels happens inside the loop, so what is found survives the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.attacks.rows import choose
from vlmdefense_demo.geometry import LEVELS, Ball, l2_length
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn


@dataclass
class Closest:
    """The nearest successful image so far; where there is none, the last one seen."""

    images: Images
    distance: Tensor  # (B,) inf where none succeeded

    @classmethod
    def of(cls, x: Images) -> Closest:
        """Nothing found yet."""
        return cls(x, torch.full((len(x),), torch.inf, device=x.device))

    def update(self, x: Images, delta: Images, won: Tensor) -> None:
        """Take over what succeeded closer, or anything while nothing has.

        Args:
            delta: x minus the clean image.
        """
        if won.device.type == "cpu" and not won.any():
            self.images = choose(self.distance.isinf(), x, self.images)
            return
        distance = l2_length(delta).flatten()
        closer = won & (distance < self.distance)
        take = closer | self.distance.isinf()
        self.images = choose(take, x, self.images)
        self.distance = torch.where(closer, distance, self.distance)


@dataclass(frozen=True)
class DDN(Attacker):
    """Gradient steps give the direction, a radius of its own the length.

    Update: d <- d + a g / ||g||, a falls from 1 to 0.01 along a cosine; the radius is multiplied by
    1 - gamma after a success, by 1 + gamma after a failure; d is scaled to it and rounded.
    """

    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 50
    radius: Annotated[float, Range(0.1, 20, 0.1), "first radius, L2 in pixel units"] = 1.0
    gamma: Annotated[float, Range(0.01, 0.5, 0.01), "change of the radius in a step"] = 0.05

    @property
    def ball(self) -> Ball:
        """No bound: the smallest success is delivered."""
        return Ball("free")

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the closest adversarial images found; N + 1 forwards, N backwards."""
        image = x
        shrink, stretch = x.new_tensor((1 - self.gamma, 1 + self.gamma))
        radius = torch.full((len(x), 1, 1, 1), self.radius, device=x.device)
        found = Closest.of(x)
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = image.detach().requires_grad_()
                logits = target(leaf)
                value = goal.maximise(logits.detach(), margin)
                loss = goal.maximise(logits, LOSSES["ce"])
                gradient = torch.autograd.grad(loss, leaf, torch.ones_like(loss))[0]
            run.record("margin", value)
            won = value > 0
            delta = image - x
            found.update(image, delta, won)
            step = 0.01 + 0.99 * (1 + math.cos(math.pi * i / self.steps)) / 2
            delta.addcmul_(gradient, step / l2_length(gradient).clamp_min(1e-12))
            grow = torch.where(won, shrink, stretch)
            radius = radius * grow[:, None, None, None]
            delta.mul_(radius / l2_length(delta).clamp_min(1e-12))
            image = delta.add_(x).clamp_(0, 1).mul_(LEVELS).round_().div_(LEVELS)
        with torch.no_grad():
            won = goal.maximise(target(image), margin) > 0
            found.update(image, image - x, won)
        return found.images
