"""FARE: an image tower fine-tuned to keep its own embeddings under attack.

Training-time. The price was paid once; at inference only the image tower is another one, and the
attacker may know it completely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models.catalog import load_twin
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images


@dataclass(frozen=True)
class FARE(Defender):
    """Swap the image tower for its robust twin.

    Source: Schlarmann et al., "Robust CLIP", ICML 2024 (arXiv 2402.12336). Training minimises
    max ||v(x + d) - v0(x)||^2 over the ball, with v0 the original tower (training/fare.py).
    The embedded model ships our own twin (eps 3/255); real CLIP uses the authors' checkpoints.
    """

    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    recipe: ClassVar[str] = (
        "APGD with two losses on the robust tower itself; its gradient is exact."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits behind the robust tower.

        Raises:
            MissingWeights: no robust twin exists for this model, or it cannot be fetched.
        """
        robust = clf.with_backbone(load_twin(clf.backbone, "fare"))
        features = robust.encode_image(x)
        return DefenseResult(robust.logits(features), features=features)

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward of the other tower."""
        return Cost(image_forward=1)
