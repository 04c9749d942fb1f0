"""Randomised smoothing: the one defence here that proves something, about small changes.

Training-free. What it proves holds against every attacker, whatever he knows, inside a radius that
is far smaller than what an L-infinity attack of a few levels is long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.multiview import Ballot, MultiView, uniform
from vlmdefense_demo.defenses.training_free.votes import Votes
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Features, Images, Note

ALPHA = 0.001  # chance that a proof is wrong
GUESSING = 8  # one copy in eight guesses the label, the others prove it
FEWEST = 16  # with eight, not even a unanimous vote would prove anything


@dataclass(frozen=True)
class Smoothing(MultiView):
    """Noisy copies vote, and the votes bound how small no successful change can be.

    Source: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019 (arXiv
    1902.02918). The bound is Clopper and Pearson's, one-sided at 99.9 %. Differs: 64 copies instead
    of 100,000, so radii are small, and CLIP was not trained on noise, so sigma costs accuracy. A
    label without a vote gets a ten-thousandth; to a gradient a vote counts as its softmax.

    Radius: R = sigma Phi^-1(p), p the lower bound of the guessed label's share; at p <= 1/2 nothing is
    proven. R is an L2 length in pixel units: 1/255 on every value of 224 x 224 pixels has 1.52.
    """

    views: Annotated[int, Range(FEWEST, 64, 8), "noisy copies"] = 64
    sigma: Annotated[float, Range(0, 0.5, 0.01), "of the noise; 0 leaves the picture alone"] = 0.12
    proves: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn noise; every vote is given the slope of its softmax. "
        "Inside the radius none can succeed."
    )

    def attacked(self) -> Smoothing:
        """With as few copies as prove anything."""
        return replace(self, views=FEWEST)

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> (B * views, 3, H, W), every copy with noise of its own, unclamped."""
        copies = x.unsqueeze(1).expand(-1, self.views, -1, -1, -1)
        return (copies + self.sigma * run.child("noise").normal(copies)).flatten(0, 1)

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """One vote a copy; the proof stands in the notes."""
        logits = clf.logits(f)
        heads = logits.detach().argmax(1)
        guess, bound = proven(heads, logits.shape[1])
        return replace(
            Votes(logits, uniform(f)), notes=(*self._certificate(clf.labels[guess], bound),)
        )

    def _certificate(self, label: str, bound: float) -> tuple[Note, ...]:
        gauge = Note("proven share of the votes", {"value": bound, "threshold": 0.5}, "gauge")
        if bound <= 0.5:
            return gauge, Note("certificate", "none: no label has a proven majority")
        radius = self.sigma * NormalDist().inv_cdf(bound)
        return gauge, Note("certificate", f"{label} within an L2 radius of {radius:.3f}")


def proven(heads: Tensor, n_labels: int) -> tuple[int, float]:
    """(V,) votes -> the label the first eighth guesses, and the bound of its share in the others."""
    from scipy import stats  # slow to import

    first = max(1, len(heads) // GUESSING)
    guess = int(torch.bincount(heads[:first], minlength=n_labels).argmax())
    rest = heads[first:]
    wins = int((rest == guess).sum())
    test = stats.binomtest(wins, len(rest), alternative="greater")
    return guess, float(test.proportion_ci(1 - ALPHA, method="exact").low)
