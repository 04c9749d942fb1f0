"""PMG-AFT's training objective. The inference side is defenses/training_time/pmg_aft.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.objective import Batch, LabelAttack
from vlmdefense_demo.types import Images, Logits


@dataclass(frozen=True)
class PMGObjective(LabelAttack):
    """TeCoA, with the attacked answer tied to two others: the original model's and its own clean one.

    Source: Wang et al., CVPR 2024 (arXiv 2401.04350). Differs from the authors' code: logits at
    the model's own scale and divergences a sample (they drop the scale by normalising twice and sum
    over the batch; mixing the two would weigh the divergences 200 times the cross-entropy), CLIP's
    own pixel statistics, and no weight gradients left over from the attack.

    Args:
        reference_first: KL(reference || attacked) as in the code since May 2024; False is the
            direction before.
    """

    reference_first: bool = True

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) cross-entropy + KL to the original on the attacked photo + KL to the clean answer."""
        both = student.encode_image(torch.cat([attacked, batch.images]))
        adversarial, clean = batch.logits(both).chunk(2)
        with torch.no_grad():
            original = batch.logits(batch.teacher.encode_image(attacked))
        value = F.cross_entropy(adversarial, batch.labels, reduction="none")
        return value + self._gap(original, adversarial) + self._gap(clean, adversarial)

    def _gap(self, reference: Logits, adversarial: Logits) -> Tensor:
        pair = (reference, adversarial) if self.reference_first else (adversarial, reference)
        return divergence(*pair)
