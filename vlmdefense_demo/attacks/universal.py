"""Universal: one perturbation for every image, made before anyone uploads anything.

Source: Moosavi-Dezfooli et al., "Universal Adversarial Perturbations", CVPR 2017 (arXiv
1610.08401). Ours is label-free: trained to turn the embeddings of photos away from themselves
(training/universal.py). It belongs to one model, whose folder holds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlmdefense_demo.attacks.base import Attacker, Eps, encoder
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal, Images, LogitFn


@dataclass(frozen=True)
class Universal(Attacker):
    """Add the model's stored perturbation, cut to the ball. Costs no pass.

    Differs from the paper: the perturbation was trained without labels.
    """

    eps: Eps = 10 / 255

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> perturbed images.

        Raises:
            MissingWeights: none was made for this model.
            InvalidParameter: the target shows answers only.
        """
        run.step(0, 1)
        delta = encoder(target, "The universal perturbation").universal().to(x)
        return (x + delta.clamp(-self.eps, self.eps)).clamp(0, 1)
