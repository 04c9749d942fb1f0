"""A frame moves every pixel of the picture: what an attack drew there no longer fits.

Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.detectors.base import Detector, apart
from vlmdefense_demo.filters import framed
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Images


@dataclass(frozen=True)
class PaddingDetector(Detector):
    """How far a black frame turns the feature.

    Source: the gate of Li et al., "TTP: Test-Time Padding", CVPR 2026 (arXiv 2512.16523; written
    from the text, which puts the threshold at a cosine of 0.8 for ViTs). Simplified where the text is
    silent: the picture is shrunk into the frame, as in `defenses/test_time/ttp.py`.

    Score: 1 - cos(f(x), f(black frame around x)).
    """

    border: Annotated[int, Range(4, 96, 4), "width of the frame, in pixels of 224"] = 32
    stochastic: ClassVar[bool] = False
    measure: ClassVar[str] = "1 − cosine with the framed picture"
    top: ClassVar[float] = 1.0
    evasion: ClassVar[str] = (
        "PGD that also raises the cosine with the framed picture: the frame is differentiable, so one "
        "more forward a step is all it takes."
    )

    def parts(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(1, B) the distance of the two features."""
        around = framed(x, torch.zeros_like(x), self.border)
        own, other = clf.encode_image(torch.cat([x, around])).chunk(2)
        return apart(own, other)[None]

    def expected_cost(self, n_labels: int) -> Cost:
        """The picture and its framed copy."""
        return Cost(image_forward=2)
