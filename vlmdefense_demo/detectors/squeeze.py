"""Filters that change nothing a person sees should change no answer either.

Assumes an attacker who ignores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo import filters
from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.geometry import passed_by
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Images, Note

PATCH, REACH = 3, 5  # of the non-local means: a patch of 3 in a window of 11
FILTERS = ("fewer levels", "median", "non-local means")


@dataclass(frozen=True)
class SqueezeDetector(Detector):
    """How far the answer moves under the filter that moves it most.

    Source: Xu et al., "Feature Squeezing", NDSS 2018 (arXiv 1704.01155), whose filters for ImageNet
    are 5 bits, a 2 x 2 median and non-local means of window 11, patch 3 and strength 4 of 255.
    Differs: scikit-image's fast form of the last; the threshold is calibrated anew. The score
    belongs to the label list, because it compares answers.

    Score: max over the filters s of sum_k |softmax(z(x))_k - softmax(z(s(x)))_k|, from 0 to 2.
    """

    bits: Annotated[int, Range(1, 8, 1), "a channel; 8 leaves the picture alone"] = 5
    size: Annotated[int, Range(1, 7, 1), "of the median; 1 leaves the picture alone"] = 2
    strength: Annotated[
        float,
        Range(1 / 255, 32 / 255, 1 / 255, scale=255, unit="/255"),
        "of the non-local means",
    ] = 4 / 255
    stochastic: ClassVar[bool] = False
    measure: ClassVar[str] = "largest shift of the answer, L1 of probabilities"
    top: ClassVar[float] = 2.0
    evasion: ClassVar[str] = (
        "PGD that also pulls the three squeezed answers to the plain one; the gradient goes past the "
        "rounding (BPDA) and through a twin of the non-local means."
    )

    def parts(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(3, B) how far each filter moved the probabilities."""
        pictures = torch.cat([x, *self._squeezed(x)])
        own, *others = clf(pictures).softmax(1).chunk(4)
        return torch.stack([(own - other).abs().sum(1) for other in others])

    def combined(self, parts: Tensor) -> Tensor:
        """The largest of the three."""
        return parts.amax(0)

    def notes(self, parts: list[float]) -> tuple[Note, ...]:
        """Each filter's own shift."""
        return tuple(
            Note(name, value, "number") for name, value in zip(FILTERS, parts, strict=True)
        )

    def expected_cost(self, n_labels: int) -> Cost:
        """The picture and three filtered copies."""
        return Cost(image_forward=4)

    def _squeezed(self, x: Images) -> tuple[Images, Images, Images]:
        return (
            passed_by(x, filters.bit_depth(x, self.bits)),
            filters.median(x, self.size),
            filters.non_local_means(x, self.strength, PATCH, REACH),
        )
