"""An attacker who knows a detector: fool the model, and keep the score below the threshold.

Carlini & Wagner, "Adversarial Examples Are Not Easily Detected", AISec 2017 (arXiv 1705.07263): a
detector is one more function to differentiate. PGD with an extra term,

    ascend L(z(x)) - w max(0, score(x) - aim),

where random detectors are drawn anew at every step. The delivered iterate is the one furthest past
both boundaries, so that it is quiet *and* fooled where any was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import Ascent
from vlmdefense_demo.attacks.base import Eps
from vlmdefense_demo.attacks.pgd import sign_move
from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.geometry import lattice_step_size
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Parameters, Range
from vlmdefense_demo.types import Goal, Images

# Fooled by this many logits is enough: beyond it only the score counts.
ENOUGH = 3.0


@dataclass(frozen=True)
class Evasion(Parameters):
    """PGD with a term against a detector's score.

    Source: the module's docstring. The loss is the margin, cut off at `ENOUGH` logits, because a
    larger one buys nothing and costs the score.
    """

    eps: Eps = 4 / 255
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 40
    weight: Annotated[float, Range(0, 1000, 1), "of the score against a logit; 0 is plain PGD"] = (
        50.0
    )

    def __call__(
        self,
        detector: Detector,
        aim: float,
        clf: ZeroShotClassifier,
        x: Images,
        goal: Goal,
        *,
        run: Run,
    ) -> Images:
        """(B, 3, H, W) on the 8-bit grid -> images inside the ball, not yet quantised.

        Args:
            aim: the score to stay below; the threshold, or a little less.
        """
        draws = count()

        def objective(x: Images) -> tuple[Tensor, Tensor]:
            logits = clf(x)
            scores = detector.score(clf, x, run=run.child(f"draw{next(draws)}"))
            gain = goal.maximise(logits, LOSSES["margin"])
            ascended = gain.clamp(max=ENOUGH) - self.weight * (scores - aim).clamp(min=0)
            both = torch.minimum(goal.maximise(logits.detach(), margin), aim - scores.detach())
            return ascended, both

        move = sign_move(x, self.eps, lattice_step_size(self.eps, self.steps))
        return Ascent(self.steps, judge_last=True)(objective, move, x, run)[0]
