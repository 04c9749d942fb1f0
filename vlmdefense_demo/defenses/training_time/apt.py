"""APT: learned words in front of every label, trained under attack on a robust image tower.

Training-time. The image tower is a robust one; what APT adds is a prompt of a few vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.variants import load_twin
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images


@dataclass(frozen=True)
class LearnedPrompt(Defender):
    """Classify with learned words in place of the template's.

    A subclass names its weights by its survey id, `weights`. The words are shared by all labels, so
    they work for labels they were not trained with, though not as well.
    """

    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits against the learned prompts.

        Raises:
            MissingWeights: no prompt was learned for this model, or its tower is missing.
            InvalidLabels: a label does not fit behind the learned words.
        """
        learned = clf.learned_context(self.weights)
        deployed = clf.with_learned(self.weights)
        if learned.tower:
            deployed = deployed.with_backbone(
                load_twin(clf.backbone, learned.tower, learned.tower_eps)
            )
        features = deployed.encode_image(x)
        notes = (learned.notes,) * len(x)
        return DefenseResult(deployed.logits(features), features=features, notes=notes)

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward; the learned words are encoded once a request, as the template's are."""
        return Cost(image_forward=1)


@dataclass(frozen=True)
class APT(LearnedPrompt):
    """Source: Li et al., "One Prompt Word is Enough", CVPR 2024 (arXiv 2403.01849).

    Training lowers the cross-entropy of attacked photos in the prompt's vectors alone, the attack
    made anew at every step against the prompt as it stands (training/prompts.py). It needs a robust
    tower to stand on: on the model's own an attacker who knows it takes everything back.
    """

    weights: ClassVar[str] = "apt"
    recipe: ClassVar[str] = (
        "APGD with two losses on the robust tower and the learned prompt; its gradient is exact."
    )
