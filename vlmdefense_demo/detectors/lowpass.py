"""A blur takes little from a photo and much from an attack, which lives in fine detail.

Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.detectors.base import Detector, apart
from vlmdefense_demo.filters import fourier_low_pass
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Images


@dataclass(frozen=True)
class LowPassDetector(Detector):
    """How far a low-pass turns the feature.

    Source: the gate of Nie et al., "Contrastive Spectral Rectification", ICML 2026 (arXiv
    2601.19210), whose threshold of 0.85 for the cosine belongs to OpenAI's ViT-B/16.

    Score: 1 - cos(f(x), f(low-pass x)); the low-pass is that of `defenses/training_free/csr.py`.
    """

    radius: Annotated[float, Range(10, 120, 5), "of the low-pass, in cycles a picture"] = 40.0
    stochastic: ClassVar[bool] = False
    measure: ClassVar[str] = "1 − cosine with the blurred picture"
    top: ClassVar[float] = 1.0
    evasion: ClassVar[str] = (
        "PGD that also raises the cosine with the blurred picture, which pushes the change into low "
        "frequencies that the blur lets through."
    )

    def parts(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(1, B) the distance of the two features."""
        both = clf.encode_image(torch.cat([x, fourier_low_pass(x, self.radius)]))
        own, blurred = both.chunk(2)
        return apart(own, blurred)[None]

    def expected_cost(self, n_labels: int) -> Cost:
        """The picture and its blurred copy."""
        return Cost(image_forward=2)
