"""What all defences that swap the image tower share: loading, mixing with the clean tower, costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models import variants
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images


@dataclass(frozen=True)
class RobustTower(Defender):
    """Swap the image tower for one fine-tuned under attack; everything else stays.

    A subclass names its weights by its survey id, `weights`.
    """

    alpha: Annotated[float, Range(0, 1, 0.05), "0 clean tower, 1 robust tower, between: a mix"] = (
        1.0
    )
    trained: Annotated[
        str, Choice(("largest", "1", "2", "3", "4")), "eps the tower was trained for, of 255"
    ] = "largest"
    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    recipe: ClassVar[str] = (
        "APGD with two losses on the robust tower itself; its gradient is exact."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits behind the robust tower.

        Raises:
            MissingWeights: no such tower exists for this model, or it cannot be fetched.
        """
        robust = clf.with_backbone(self.tower(clf.backbone))
        features = robust.encode_image(x)
        notes = variants.training_notes(clf.backbone, self.weights, self.eps)
        return DefenseResult(robust.logits(features), features=features, notes=(notes,) * len(x))

    def tower(self, backbone: Backbone) -> Backbone:
        """The model behind this defence's image tower."""
        twin = variants.load_twin(backbone, self.weights, self.eps)
        return variants.between(backbone, twin, self.alpha)

    @property
    def eps(self) -> float:
        """The trained radius in levels; 0 is the largest there is."""
        return 0 if self.trained == "largest" else float(self.trained)

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward of the other tower."""
        return Cost(image_forward=1)
