"""TPT: tune the prompt until confident views agree. Made for new domains, not for attacks.

Test-time adaptation, and the family's control: under attack the views are made to agree with the
attacked one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlmdefense_demo.defenses.multiview import marginal_entropy
from vlmdefense_demo.defenses.test_time.tuning import PromptTuner
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.types import Features


@dataclass(frozen=True)
class TPT(PromptTuner):
    """One AdamW step on the entropy of the confident views' mean answer; the image itself answers.

    Source: Shu et al., "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language
    Models", NeurIPS 2022 (arXiv 2209.07511). Differs from the authors' code: the image is encoded
    once, prompts are cut to the length they have, full precision without gradient scaling (an
    overflow silently skips their step), at least two views are kept, and views are crops and
    flips, with AugMix only if asked for.

    Update: ctx <- AdamW step on H(mean of softmax) over the 10 % most confident views.
    """

    def objective(
        self, clf: ZeroShotClassifier, tuned: ZeroShotClassifier, f: Features, chosen: Tensor
    ) -> Tensor:
        """() entropy of the mean answer."""
        return marginal_entropy(tuned.logits(f[chosen]))
