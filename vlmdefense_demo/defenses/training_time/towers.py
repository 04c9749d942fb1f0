"""What all defences that swap the image tower share: loading, mixing with the clean tower, costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models import variants
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, Note

MIXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
MIXED_BELOW = 100  # megabytes: mixtures of a large tower would not fit into memory beside it


@dataclass(frozen=True)
class RobustTower(Defender):
    """Swap the image tower for one fine-tuned under attack; everything else stays.

    A subclass names its weights by its survey id, `weights`.
    """

    alpha: Annotated[float, Range(0, 1, 0.05), "0 clean tower, 1 robust tower, between: a mix"] = (
        1.0
    )
    trained_eps: Annotated[
        str, Choice(("largest", "1", "2", "3", "4")), "eps the tower was trained for, of 255"
    ] = "largest"
    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    leads: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "APGD with two losses on the robust tower itself; its gradient is exact."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits behind the robust tower.

        Raises:
            MissingWeights: no such tower exists for this model, or it cannot be fetched.
        """
        robust = self.model(clf)
        features = robust.encode_image(x)
        notes = variants.training_notes(clf.backbone, self.weights, self.eps)
        return DefenseResult(robust.logits(features), features=features, notes=(notes,) * len(x))

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """Confidence in the right label on both pictures, from the clean tower to the robust one."""
        if variants.megabytes(clf.backbone, self.weights, self.eps) > MIXED_BELOW:
            return ()
        probs = [replace(self, alpha=alpha).model(clf)(pair).softmax(1) for alpha in MIXTURES]
        curves = {
            "x": list(MIXTURES),
            "clean": [float(p[0, right]) for p in probs],
            "attacked": [float(p[1, right]) for p in probs],
        }
        return (Note(f"confidence in “{clf.labels[right]}”, by alpha", curves, "curves"),)

    def model(self, clf: ZeroShotClassifier) -> ZeroShotClassifier:
        """The classifier behind this defence's image tower; MissingWeights if there is none."""
        return clf.with_backbone(self.tower(clf.backbone))

    def tower(self, backbone: Backbone) -> Backbone:
        """The model behind this defence's image tower."""
        twin = variants.load_twin(backbone, self.weights, self.eps)
        return variants.between(backbone, twin, self.alpha)

    @property
    def eps(self) -> float:
        """The trained radius in levels; 0 is the largest there is."""
        return 0 if self.trained_eps == "largest" else float(self.trained_eps)

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward of the other tower."""
        return Cost(image_forward=1)
