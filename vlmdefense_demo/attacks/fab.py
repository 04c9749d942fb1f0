"""FAB-T: walk to the nearest point of a linearised boundary, over and over, towards one wrong label.

Source: Croce & Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary
Attack", ICML 2020 (arXiv 1907.02044), targeted, L-infinity. Differs from the reference code: the
projection is found by bisection on its radius instead of sorting every coordinate, an image walks
towards every target, not only to the first that fools inside the ball, and a point counts as
adversarial when its 8-bit picture is: the closest points lie so near the boundary that rounding
would undo half of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal, Images, LogitFn

TARGETS = 9
MOST_OF_ORIGINAL, OVERSHOOT, PULL_BACK = 0.1, 1.05, 0.9
BISECTIONS = 30


@dataclass(frozen=True)
class FABT(Attacker):
    """One walk a wrong label, strongest first, at most nine; 2 forwards and 1 backward a step.

    Images whose nearest adversarial point lies outside the ball are returned clean.
    """

    eps: float = 4 / 255
    steps: int = 100

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the closest adversarial images inside the ball, else the clean ones."""
        with torch.no_grad():
            logits = target(x)
        allies = goal.allies(logits)
        ranked = logits.masked_fill(allies, -torch.inf).argsort(1, descending=True)
        wrong = (~allies).sum(1)
        if goal.targeted:  # one walk, away from the clean answer
            wrong = torch.ones_like(wrong)
            allies = F.one_hot(logits.argmax(1), logits.shape[1]).bool()
        images, distance = x, torch.full((len(x),), torch.inf, device=x.device)
        for i in range(min(TARGETS, int(wrong.max()))):
            towards = goal.labels.to(x.device) if goal.targeted else ranked[:, i]
            found, reach = self._walk(target, x, goal, (allies, towards), run.child(f"target{i}"))
            closer = (reach < distance) & (reach <= self.eps + 1e-6) & (wrong > i)
            images = torch.where(closer[:, None, None, None], found, images)
            distance = torch.where(closer, reach, distance)
        return images

    def _walk(
        self, target: LogitFn, x0: Images, goal: Goal, pair: tuple[Tensor, Tensor], run: Run
    ) -> tuple[Images, Tensor]:
        """The closest success towards one label, and its (B,) L-infinity distance."""
        leave, towards = pair
        x, best = x0, x0
        distance = torch.full((len(x0),), torch.inf, device=x0.device)
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                logits = target(leaf)
                best_left = logits.masked_fill(~leave, -torch.inf).amax(1)
                lead = logits.gather(1, towards[:, None])[:, 0] - best_left
                normal = torch.autograd.grad(lead.sum(), leaf)[0]
            offset = (normal * x).flatten(1).sum(1) - lead.detach()
            step, home = project_plane(x, normal, offset), project_plane(x0, normal, offset)
            near, far = (d.abs().flatten(1).amax(1).clamp_min(1e-8) for d in (step, home))
            share = (near / (near + far)).clamp(0, MOST_OF_ORIGINAL)[:, None, None, None]
            x = (x + OVERSHOOT * step) * (1 - share) + (x0 + OVERSHOOT * home) * share
            x = x.clamp(0, 1)
            rounded = (x * LEVELS).round() / LEVELS
            with torch.no_grad():
                won = goal.reached(target(rounded))
            reach = (rounded - x0).abs().flatten(1).amax(1)
            closer = won & (reach < distance)
            best = torch.where(closer[:, None, None, None], rounded, best)
            distance = torch.where(closer, reach, distance)
            x = torch.where(won[:, None, None, None], x0 + (x - x0) * PULL_BACK, x)
        return best, distance


def project_plane(x: Images, normal: Tensor, offset: Tensor) -> Tensor:
    """The smallest L-infinity change that puts x on {z: <normal, z> = offset} inside the pixel box.

    Every coordinate moves by min(r, its room) in its own best direction, and the gain grows with
    r; where the box has too little room, everything moves as far as it can.
    """
    gap = offset - (normal * x).flatten(1).sum(1)
    way = normal.sign() * gap.sign()[:, None, None, None]
    room = torch.where(way > 0, 1 - x, x) * (way != 0)
    weight = normal.abs()
    low = torch.zeros(len(x), 1, 1, 1, device=x.device)
    high = torch.ones_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gain = (weight * torch.min(room, middle)).flatten(1).sum(1)
        enough = (gain >= gap.abs())[:, None, None, None]
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return way * torch.min(room, high)
