"""C-TPT: TPT that keeps the labels' texts apart, so that confidence means something.

Test-time adaptation. Made for calibration; against attacks it does as little as TPT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vlmdefense_demo.defenses.multiview import marginal_entropy
from vlmdefense_demo.defenses.test_time.tuning import PromptTuner
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Features


@dataclass(frozen=True)
class CTPT(PromptTuner):
    """TPT's loss minus the spread of the labels' text features.

    Source: Yoon et al., "C-TPT: Calibrated Test-Time Prompt Tuning for Vision-Language Models via
    Text Feature Dispersion", ICLR 2024 (arXiv 2403.14119). Differs from the authors' code as TPT
    does. Its weight is 50 for fine-grained sets and 20 for ImageNet's.

    Update: ctx <- AdamW step on H(mean of softmax) - lambda mean_c ||t_c - mean t||.
    """

    dispersion: Annotated[float, Range(0, 100, 5), "lambda: weight of the labels' spread"] = 50.0

    def objective(
        self, clf: ZeroShotClassifier, tuned: ZeroShotClassifier, f: Features, chosen: Tensor
    ) -> Tensor:
        """() entropy of the mean answer, minus the weighted spread of the texts."""
        value = marginal_entropy(tuned.logits(f[chosen]))
        return value - self.dispersion * spread(tuned.text_features)


def spread(text: Features) -> Tensor:
    """(K, D) -> () mean distance of the labels' features from their centre; 0 for equal ones."""
    away = text - text.mean(0)
    return away.square().sum(1).clamp_min(1e-24).sqrt().mean()
