"""CSR: a picture that its own blur disagrees with is pulled towards what the blur says.

Training-free. Rests on one observation: an attack lives in fine detail, so blurring moves an attacked
picture's feature further than a clean one's. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.filters import fourier_low_pass
from vlmdefense_demo.geometry import check_step_size, in_range, passed_by
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import (
    Adaptive,
    Cost,
    DefenseResult,
    Features,
    Images,
    LogitFn,
    Logits,
    Note,
)


@dataclass(frozen=True)
class CSR(Defender):
    """A gate on the cosine with the blurred picture, then a few signed steps of rectification.

    Source: Nie et al., "Contrastive Spectral Rectification", ICML 2026 (arXiv 2601.19210). Differs
    from the authors' code: all three steps are taken (their fast form stops after two), and the
    frequencies of smaller pictures are counted over 224 pixels. The published threshold belongs to
    OpenAI's ViT-B/16.

    Gate: cos(f(x), f(low-pass x)) below the threshold. Update, N times from zero:
    d <- clip(d + a sign grad [cos(f(x + d), f(low-pass x)) - cos(f(x + d), f(x))], -eps, eps); the
    best of the pictures on the way is answered. Other pictures pass as they are.
    """

    threshold: Annotated[float, Range(0, 1, 0.01), "gate: attacked below this cosine"] = 0.85
    radius: Annotated[float, Range(10, 120, 5), "of the low-pass, in cycles a picture"] = 40.0
    steps: Annotated[int, Range(0, 10, 1), "of rectification"] = 3
    step_size: Annotated[float, Range(0, 8 / 255, 1 / 255, scale=255, unit="/255"), "per step"] = (
        2 / 255
    )
    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "own budget"] = (
        4 / 255
    )
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = False
    on_grid: ClassVar[bool] = True  # the gate is a threshold
    recipe: ClassVar[str] = (
        "APGD with two losses on the mean of the answers to the picture and to its blur: who fools "
        "both keeps the gate shut and poisons what the steps pull towards."
    )

    def check_together(self) -> None:
        """A step may not cross the whole ball."""
        check_step_size(self.step_size, self.eps)

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits; the rectification is a constant to an attacker's gradient."""
        x0 = x.detach()
        with torch.no_grad():
            both = clf.encode_image(torch.cat([x0, fourier_low_pass(x0, self.radius)]))
        own, anchor = both.chunk(2)
        cosine = (own * anchor).sum(1)
        flagged = cosine < self.threshold
        delta, scores = torch.zeros_like(x0), torch.empty(0, len(x0))
        if self.steps and bool(flagged.any()):
            delta, scores = self._rectify(clf, x0, own, anchor, run)
            delta = torch.where(flagged[:, None, None, None], delta, torch.zeros_like(delta))
        image = in_range(x + delta)
        features = clf.encode_image(image)
        notes = tuple(self._notes(float(c), scores[:, i].tolist()) for i, c in enumerate(cosine))
        return DefenseResult(clf.logits(features), image.detach(), features, notes)

    def expected_cost(self, n_labels: int) -> Cost:
        """With the gate open; a shut gate leaves 3 forwards and no backward."""
        return Cost(
            image_forward=3 + (self.steps + 1) * (self.steps > 0), image_backward=self.steps
        )

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The defence's answer, with the slope of the mean answer to the picture and to its blur.

        Only its own answer can tell whether it is fooled: sure of the picture, the mean is wrong while
        the blur still is right.
        """

        def target(x: Images) -> Logits:
            both = clf(torch.cat([x, fourier_low_pass(x, self.radius)]))
            smooth = torch.stack(both.chunk(2)).mean(0)
            with torch.no_grad():
                answer = self(clf, x, run=run).logits
            return passed_by(smooth, answer)

        return target

    def _rectify(
        self, clf: ZeroShotClassifier, x: Images, own: Features, anchor: Features, run: Run
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) the best change on the way, and (steps + 1, B) its score so far."""
        delta, best = torch.zeros_like(x), torch.zeros_like(x)
        top = torch.full((len(x),), -torch.inf, device=x.device)
        series = []
        for i in range(self.steps + 1):
            run.step(i, self.steps + 1)
            with torch.enable_grad():
                leaf = delta.detach().requires_grad_(i < self.steps)
                score = (clf.encode_image(in_range(x + leaf)) * (anchor - own)).sum(1)
                better = score.detach() > top
                best = torch.where(better[:, None, None, None], delta, best)
                top = torch.where(better, score.detach(), top)
                series.append(top)
                if i == self.steps:
                    break
                gradient = torch.autograd.grad(score.sum(), leaf)[0]
            ahead = (delta + self.step_size * gradient.sign()).clamp(-self.eps, self.eps)
            delta = (x + ahead).clamp(0, 1) - x
        return best, torch.stack(series)

    def _notes(self, cosine: float, scores: list[float]) -> tuple[Note, ...]:
        open_ = cosine < self.threshold
        gauge = {"value": cosine, "threshold": self.threshold}
        notes = (
            Note("cosine with the blurred picture", gauge, "gauge"),
            Note("gate", "rectified" if open_ else "judged clean: left alone"),
        )
        return (
            (*notes, Note("best score, per step", scores, "series")) if open_ and scores else notes
        )
