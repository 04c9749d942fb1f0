"""TeCoA's training objective. The inference side is defenses/training_time/tecoa.py."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.objective import Batch, LabelAttack
from vlmdefense_demo.types import Images


class TeCoAObjective(LabelAttack):
    """The attacked photo must still match the text of its class.

    Source: Mao et al., ICLR 2023 (arXiv 2212.07016): plain image-to-text cross-entropy over all
    class prompts, on attacked photos only.
    """

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) cross-entropy with the label."""
        logits = batch.logits(student.encode_image(attacked))
        return F.cross_entropy(logits, batch.labels, reduction="none")
