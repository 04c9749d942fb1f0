"""Projected gradient descent and its one-step ancestor in the L-infinity ball.

Sources: FGSM, Goodfellow et al., ICLR 2015 (arXiv 1412.6572); PGD, Madry et al., ICLR 2018
(arXiv 1706.06083). Differs from common libraries in what it returns, not in how it steps: the
first step starts at the clean image, step sizes are whole grey levels, and the best iterate is
kept. With a uniform start, `keep="last"` and no early stop it is bit-identical to torchattacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import LEVELS, lattice_step_size, project_linf, sign_step
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Parameters, Range
from vlmdefense_demo.types import Goal, Images, LogitFn, Loss

Eps = Annotated[float, Range(0, 32 / 255, 1 / 255, scale=255, unit="/255"), "radius of the ball"]
# One logit: more than another batch size or device can undo.
PAST_BOUNDARY = 1.0
PATIENCE = 5


@dataclass
class Best:
    """The best iterate so far, by margin. One row an image.

    A row past `enough` is finished and keeps its image, however long the rest of the batch takes:
    otherwise a batch would differ from its single images.
    """

    images: Images
    margin: Tensor  # (B,) of the goal: positive = reached
    enough: float

    def update(self, x: Images, value: Tensor) -> None:
        """Take over the rows that improved; no host synchronisation."""
        better = (value > self.margin) & (self.margin < self.enough)
        self.images = torch.where(better[:, None, None, None], x, self.images)
        self.margin = torch.where(better, value, self.margin)


@dataclass(frozen=True)
class Ascent:
    """Sign-gradient ascent inside a ball: what FGSM, PGD and their relatives share.

    Args:
        keep: "best" returns a successful iterate with the largest margin, or the last iterate if
            none succeeded; "last" returns the last, as torchattacks does.
        enough: an image is finished when it is past the boundary by this many logits.
        judge_last: spend one more forward to read the last iterate's margin.
    """

    eps: float
    step_size: float
    steps: int
    loss: Loss
    keep: Literal["best", "last"] = "best"
    enough: float = torch.inf
    judge_last: bool = False

    def __call__(
        self, target: LogitFn, x0: Images, start: Images, goal: Goal, run: Run
    ) -> tuple[Images, Tensor]:
        """Ascend from `start`.

        Returns:
            the iterates to deliver, and (B,) the best margin seen (-inf where none was seen).
        """
        x = start
        # Asking the device whether all rows are finished waits for it: on a GPU, seldom.
        patience = 1 if x0.device.type == "cpu" else PATIENCE
        best = Best(x0, torch.full((len(x0),), -torch.inf, device=x0.device), self.enough)
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                logits = target(leaf)
                value = goal.maximise(logits.detach(), margin)
                run.record("margin", value)
                best.update(x, value)
                if i % patience == 0 and bool((best.margin >= self.enough).all()):
                    break
                gradient = torch.autograd.grad(goal.maximise(logits, self.loss).sum(), leaf)[0]
            x = project_linf(sign_step(x.detach(), gradient, self.step_size), x0, self.eps)
        else:
            if self.judge_last:
                with torch.no_grad():
                    best.update(x, goal.maximise(target(x), margin))
        if self.keep == "last":
            return x, best.margin
        won = (best.margin > 0)[:, None, None, None]
        return torch.where(won, best.images, x), best.margin


@dataclass(frozen=True)
class FGSM(Parameters):
    """One step of the full radius: the instant, weak reference attack.

    Update: x = clip(x0 + eps sign grad CE(x0)).
    """

    eps: Eps = 4 / 255

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        ascend = Ascent(self.eps, self.eps, 1, LOSSES["ce"], keep="last")
        return ascend(target, x, x, goal, run)[0]


@dataclass(frozen=True)
class PGD(Parameters):
    """Repeated sign steps, each projected back into the ball.

    Update: x <- clip(x0 + clip(x + a sign grad L(x) - x0, -eps, eps)), N times. The first step
    starts at x0, so its forward also reads the clean margin; every restart starts from integer
    noise in {-e..e}. Costs N forwards and N backwards per start, less when it stops early.
    """

    eps: Eps = 4 / 255
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 10
    step_size: Annotated[
        float, Range(0, 32 / 255, 1 / 255, scale=255, unit="/255"), "0 = 2.5 eps / steps"
    ] = 0.0
    restarts: Annotated[int, Range(0, 10, 1), "extra starts from random noise"] = 0
    loss: Annotated[str, Choice(tuple(LOSSES)), "what is ascended"] = "ce"
    stop_early: Annotated[bool, "stop one logit past the boundary"] = True

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball.

        Raises:
            InvalidParameter: a target with the DLR loss, whose sign flip aims at nothing.
        """
        if goal.targeted and self.loss == "dlr":
            raise InvalidParameter(
                "The DLR loss is for untargeted attacks.", "Choose ce or margin for a target."
            )
        ascend = Ascent(
            self.eps,
            self.step_size or lattice_step_size(self.eps, self.steps),
            self.steps,
            LOSSES[self.loss],
            enough=PAST_BOUNDARY if self.stop_early else torch.inf,
            judge_last=self.restarts > 0,
        )
        images, best = ascend(target, x, x, goal, run)
        for i in range(self.restarts):
            if self.stop_early and bool((best >= PAST_BOUNDARY).all()):
                break
            again = run.child(f"restart{i + 1}")
            noise = again.levels(x, int(self.eps * LEVELS + 1e-6))
            candidate, value = ascend(target, x, (x + noise).clamp(0, 1), goal, again)
            better = (value > best) & (best < ascend.enough)  # a finished row keeps its image
            images = torch.where(better[:, None, None, None], candidate, images)
            best = torch.maximum(best, value)
        return images
