"""TTC: attack the attack. Push the image away from its own embedding before classifying it.

Training-free. Rests on one observation: an attacked image sits in an artificially stable spot, so
noise moves its embedding less than a clean image's. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.training_free.counterattack import boxed, drift, pushed
from vlmdefense_demo.geometry import check_step_size, in_range
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Features, Images, Note


@dataclass(frozen=True)
class TTC(Defender):
    """Noise, a gate, and a weighted counterattack on the image's own feature.

    Source: Xing et al., "CLIP is Strong Enough to Fight Back", CVPR 2025 (arXiv 2503.03613).
    Differs from the authors' code: per-image noise seeds, fp32, and a batch whose gates all
    stay shut spends no gradient steps.

    Update: d <- clip(d + a sign grad ||f(x + d) - f(x)||^2), N times from noise d_0 ~ U(-E, E).
    Gate: tau = ||f(x + d_0) - f(x)|| / ||f(x)||; below the threshold the image counts as attacked
    and gets sum_i softmax(beta i) d_i, otherwise only the noise d_0.
    The published threshold 0.2 belongs to OpenAI's ViTs; other towers drift further, and then the
    gate stays shut.
    """

    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "own budget"] = (
        4 / 255
    )
    step_size: Annotated[float, Range(0, 8 / 255, 1 / 255, scale=255, unit="/255"), "per step"] = (
        1 / 255
    )
    steps: Annotated[int, Range(0, 10, 1), "counterattack steps"] = 2
    tau: Annotated[float, Range(0, 4, 0.05), "gate: attacked below this drift"] = 0.2
    beta: Annotated[float, Range(0, 10, 0.5), "weight of later steps"] = 2.0
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over noise draws, with the counterattack held constant, because sign has "
        "no slope to follow."
    )

    def check_together(self) -> None:
        """A step may not cross the whole ball."""
        check_step_size(self.step_size, self.eps)

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the counterattacked images.

        The counterattack is a constant to an attacker's gradient: at a point that is the derivative,
        because sign has no slope, though many signs flip within a small step.
        """
        x0 = x.detach()
        noise = boxed(x0, run.child("noise").uniform(x0, -self.eps, self.eps), self.eps)
        with torch.no_grad():
            anchor = clf.encode_image(x0, normalize=False)
        delta, tau = self._counter(clf, x0, noise, anchor, run)
        image = in_range(x + delta)
        features = clf.encode_image(image)
        notes = tuple(self._notes(float(t)) for t in tau)
        return DefenseResult(clf.logits(features), image.detach(), features, notes)

    def expected_cost(self, n_labels: int) -> Cost:
        """With the gate open; a shut gate leaves 3 forwards and no backward."""
        return Cost(image_forward=self.steps + 2 + (self.steps == 0), image_backward=self.steps)

    def _counter(
        self, clf: ZeroShotClassifier, x: Images, noise: Tensor, anchor: Features, run: Run
    ) -> tuple[Tensor, Tensor]:
        """The perturbation each image gets, and its tau."""
        weights = torch.softmax(self.beta * torch.arange(self.steps + 1.0), 0).tolist()
        delta, total = noise, weights[0] * noise
        tau = attacked = torch.empty(0)
        for i in range(max(1, self.steps)):
            run.step(i, self.steps)
            leaf, moved = drift(clf, x, anchor, delta, self.steps > 0)
            if i == 0:
                tau = (moved.norm(dim=1) / anchor.norm(dim=1)).detach()
                attacked = tau < self.tau
            if self.steps == 0 or not bool(attacked.any()):
                break
            delta = pushed(x, leaf, moved, self.step_size, self.eps)
            total = total + weights[i + 1] * delta
        return torch.where(attacked[:, None, None, None], total, noise).detach(), tau

    def _notes(self, tau: float) -> tuple[Note, ...]:
        verdict = "counterattacked" if tau < self.tau else "judged clean: noise only"
        return (
            Note("drift under noise (tau)", {"value": tau, "threshold": self.tau}, "gauge"),
            Note("gate", verdict),
        )
