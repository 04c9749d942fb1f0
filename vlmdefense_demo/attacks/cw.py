"""C&W: trade the size of the change against the margin, and search for the best rate of exchange.

Source: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017
(arXiv 1608.04644). Differs from common libraries: the right label is masked with minus infinity
(multiplying by zero loses the gradient where all logits are negative), pixels at 0 and 1 keep a
finite inverse, and success is judged on the rounded image with a straight-through gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.attacks.minimal import Closest
from vlmdefense_demo.geometry import LEVELS, Ball
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn

INSIDE = 0.999999
LARGEST = 1e10
BETA1, BETA2 = 0.9, 0.999


@dataclass
class Adam:
    """torch's Adam to the bit for one tensor, without its bookkeeping."""

    rate: float
    mean: Tensor
    power: Tensor
    steps: int = 0

    def step(self, w: Tensor, slope: Tensor) -> None:
        """Move `w` down the slope, in place."""
        self.steps += 1
        self.mean.lerp_(slope, 1 - BETA1)
        self.power.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
        length = self.power.sqrt().div_((1 - BETA2**self.steps) ** 0.5).add_(1e-8)
        w.addcdiv_(self.mean, length, value=-self.rate / (1 - BETA1**self.steps))


@dataclass(frozen=True)
class CW(Attacker):
    """Adam on w, x = (tanh w + 1) / 2, minimising ||x - x0||^2 + c max(-margin, -kappa).

    c is searched per image: raised tenfold until it succeeds, then bisected.
    """

    searches: Annotated[int, Range(1, 9, 1), "values of c tried"] = 4
    steps: Annotated[int, Range(1, 200, 1), "Adam steps for each c"] = 60
    learning_rate: Annotated[float, Range(0.001, 0.2, 0.001), "of Adam"] = 0.01
    confidence: Annotated[float, Range(0, 20, 0.5), "kappa: logits past the boundary"] = 0.0
    trade: Annotated[float, Range(0.001, 100, 0.001), "first c"] = 1.0

    @property
    def ball(self) -> Ball:
        """No bound: the smallest success is delivered."""
        return Ball("free")

    def expected_steps(self, n_labels: int) -> int:
        """As many for every c."""
        return self.searches * super().expected_steps(n_labels)

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the closest adversarial images found; searches x steps f + b."""
        found = Closest.of(x)
        c = torch.full((len(x),), self.trade, device=x.device)
        low, high = torch.zeros_like(c), torch.full_like(c, LARGEST)
        for i in range(self.searches):
            won = self._descend(target, x, goal, c, found, run.child(f"search{i}"))
            high, low = torch.where(won, c, high), torch.where(won, low, c)
            c = torch.where(high < LARGEST, (low + high) / 2, c * 10)
        return found.images

    def _descend(
        self, target: LogitFn, x: Images, goal: Goal, c: Tensor, found: Closest, run: Run
    ) -> Tensor:
        """One run of Adam from the clean image; (B,) bool, whether it ever succeeded."""
        w = torch.atanh((2 * x - 1) * INSIDE)
        adam = Adam(self.learning_rate, torch.zeros_like(x), torch.zeros_like(x))
        ever = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for i in range(self.steps):
            run.step(i, self.steps)
            smooth = (2 * w).sigmoid_()  # (tanh w + 1) / 2, six times faster
            rounded = (smooth * LEVELS).round_().div_(LEVELS)
            leaf = rounded.detach().requires_grad_()
            with torch.enable_grad():
                value = goal.maximise(target(leaf), margin)
            run.record("margin", value)
            won = value.detach() > self.confidence
            ever |= won
            # Twice the slope by the pixel, and twice that of the distance: the sigmoid was of 2 w.
            slope = torch.autograd.grad(value, leaf, -2 * c * ~won)[0].add_(smooth - x, alpha=4)
            found.update(rounded, rounded - x, won)
            adam.step(w, torch.ops.aten.sigmoid_backward(slope, smooth))
        return ever
