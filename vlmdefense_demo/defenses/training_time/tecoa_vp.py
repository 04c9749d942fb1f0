"""TeCoA's visual prompt: the model stays as it is, and every picture gets a trained frame.

Training-time, and the smallest of all: 69,840 numbers. The attacker knows the frame and attacks
through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models.border import assemble, framed
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.variants import load_learned, training_notes
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images


@dataclass(frozen=True)
class TeCoAVP(Defender):
    """Source: Mao et al., ICLR 2023 (arXiv 2212.07016), the padding variant of their prompts.

    The frame is added to the normalised picture, inside its border and on top of what is there
    (models/border.py), and trained with TeCoA's loss, the attack going through it
    (training/tecoa_vp.py).
    """

    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    weights: ClassVar[str] = "tecoa_vp"
    recipe: ClassVar[str] = "APGD with two losses through the frame; its gradient is exact."

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the framed pictures.

        Raises:
            MissingWeights: no frame was trained for this model.
        """
        frame = assemble(load_learned(clf.backbone, self.weights))
        features = clf.encode_image(framed(clf.backbone, x, frame))
        notes = training_notes(clf.backbone, self.weights)
        return DefenseResult(clf.logits(features), features=features, notes=(notes,) * len(x))

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward of the model itself."""
        return Cost(image_forward=1)
