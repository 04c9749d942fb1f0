"""How far noise moves a picture's feature: an attacked picture sits too still, then falls too far.

Under noise weaker than the attack the attacked feature moves less than a clean one (the "false
stability" on which TTC's gate rests); under stronger noise the attack breaks and it moves more. The
curves cross. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.geometry import LEVELS, in_range
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Images, Note

AMPLITUDES = (1, 2, 4, 8, 16, 32)  # of the curve, in grey levels
CURVE = "drift over the noise"


@dataclass(frozen=True)
class DriftDetector(Detector):
    """How far strong noise moves the feature.

    Source: the idea of gating by the drift under strong noise, arXiv 2606.03730, known to us from a
    summary only; the drift itself is TTC's tau (Xing et al., CVPR 2025, arXiv 2503.03613), which reads it
    under weak noise, and the other way round. Simplified: amplitude and number of draws are ours.

    Score: mean over the draws n ~ U(-a, a) of ||f(x + n) - f(x)||, features of unit length.
    """

    amplitude: Annotated[
        float, Range(1 / 255, 64 / 255, 1 / 255, scale=255, unit="/255"), "of the noise"
    ] = 16 / 255
    draws: Annotated[int, Range(1, 16, 1), "of the noise"] = 4
    stochastic: ClassVar[bool] = True
    measure: ClassVar[str] = "distance the noise moves the feature"
    top: ClassVar[float] = 1.5
    evasion: ClassVar[str] = (
        "PGD that also lowers the drift, averaged over noise that is drawn anew at every step (EOT)."
    )

    def parts(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(1, B) the mean drift."""
        return self._drift(clf, x, clf.encode_image(x), self.amplitude, run)[None]

    def expected_cost(self, n_labels: int) -> Cost:
        """The picture and its noisy copies."""
        return Cost(image_forward=1 + self.draws)

    def exhibit(self, clf: ZeroShotClassifier, pair: Images, *, run: Run) -> tuple[Note, ...]:
        """The drift of both pictures over the amplitude, by the same draws as the score."""
        curves = []
        for i, x in enumerate(pair.split(1)):
            own, moved = clf.encode_image(x), []
            for j, level in enumerate(AMPLITUDES):
                run.step(i * len(AMPLITUDES) + j, 2 * len(AMPLITUDES))
                moved.append(float(self._drift(clf, x, own, level / LEVELS, run)))
            curves.append(moved)
        value = {"x": list(AMPLITUDES), "clean": curves[0], "attacked": curves[1]}
        return (Note(CURVE, value, "curves"),)

    def _drift(
        self, clf: ZeroShotClassifier, x: Images, own: Tensor, amplitude: float, run: Run
    ) -> Tensor:
        """(B,) one draw after another, so that the batch does not grow with their number."""
        lengths = []
        for i in range(self.draws):
            noise = run.child(f"noise{i}").uniform(x.detach(), -1.0, 1.0)
            moved = clf.encode_image(in_range(x + amplitude * noise)) - own
            lengths.append(torch.linalg.vector_norm(moved, dim=1))
        return torch.stack(lengths).mean(0)


def crossover(
    x: Sequence[float], clean: Sequence[float], attacked: Sequence[float]
) -> float | None:
    """Where the attacked curve rises above the clean one for good; None where it does not.

    Straight lines between the points, over the logarithm of the amplitude.
    """
    gaps = [a - c for a, c in zip(attacked, clean, strict=True)]
    found = None
    for (left, below), (right, above) in pairwise(zip(x, gaps, strict=True)):
        if below <= 0 < above:
            share = below / (below - above)
            found = exp(log(left) + share * (log(right) - log(left)))
        elif above <= 0:
            found = None
    return found
