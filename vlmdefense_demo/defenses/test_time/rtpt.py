"""R-TPT: tune the prompt on confident views of one image, then let reliable views vote.

Test-time adaptation. Assumes an attacker who ignores it: published robustness is measured on
images made against the undefended model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from vlmdefense_demo.defenses.multiview import Ballot, entropy, reliability
from vlmdefense_demo.defenses.test_time.tuning import PromptTuner, Tuned
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.types import Features

NEIGHBOURS = 20
TEMPERATURE = 0.01


@dataclass(frozen=True)
class RTPT(PromptTuner):
    """One AdamW step on the prompt's context vectors, then a reliability-weighted ensemble.

    Source: Sheng et al., "R-TPT", CVPR 2025 (arXiv 2504.11195). Differs from the authors' code:
    each view is encoded once (they encode 257 images for 64 views); a view's similarity to itself
    is removed by its index, not by "similarity >= 1.0", which rounding lets through for a third
    of the views; at least two views are kept, so fewer than ten views work; neighbours are
    clipped to the views there are. Views are crops and flips, with AugMix only if asked
    for, 16 by default (the authors' 64), and then all other views are neighbours.

    Update: ctx <- AdamW step on the mean entropy of the 10 % most confident views.
    Output: sum_i w_i logits_i, w = softmax(mean of the 20 largest cosines to other views / 0.01).
    """

    def objective(
        self, clf: ZeroShotClassifier, tuned: ZeroShotClassifier, f: Features, chosen: Tensor
    ) -> Tensor:
        """() mean entropy: every view by itself, so that none has to agree with an attacked one."""
        return entropy(tuned.logits(f[chosen])).mean()

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Tuned) -> Ballot:
        """All views answer against the tuned prompt; who has close neighbours counts more."""
        weights = reliability(f[: self.views], NEIGHBOURS, TEMPERATURE)
        return replace(super().vote(clf, f, state), weights=weights)
