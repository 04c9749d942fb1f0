"""TGA-ZSR's training objective. The inference side is defenses/training_time/tga_zsr.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.maps import attention
from vlmdefense_demo.training.objective import Batch, LabelAttack
from vlmdefense_demo.types import Images

PAPER_SIDE = 224  # the grid the paper's weights belong to


@dataclass(frozen=True)
class TGAObjective(LabelAttack):
    """TeCoA, with the text-guided attention pulled back to where the original model looks.

    Source: Yu et al., NeurIPS 2024 (arXiv 2410.21802). Maps are compared on the tower's own grid of
    side r instead of 224 x 224 pixels, with weights times 224 / r: a constant difference counts the
    same. On a tower that averages locations the map is the class activation, which adds up to the
    logit (models/maps.py), in place of the paper's unit-norm patch tokens.

    Args:
        refinement: weight of ||A(attacked) - A0(clean)||.
        constraint: weight of ||A(clean) - A0(clean)||.
    """

    refinement: float = 0.08
    constraint: float = 0.05

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) cross-entropy + both distances of attention maps."""
        features, grid = student.encode_located(torch.cat([attacked, batch.images]))
        text = batch.text[batch.labels]
        adversarial, clean = attention(grid, text.repeat(2, 1)).chunk(2)
        with torch.no_grad():
            original = attention(batch.teacher.encode_located(batch.images)[1], text)
        scale = PAPER_SIDE / original.shape[-1]
        logits = batch.logits(features[: len(attacked)])
        value = F.cross_entropy(logits, batch.labels, reduction="none")
        value = value + self.refinement * scale * map_distance(adversarial, original)
        return value + self.constraint * scale * map_distance(clean, original)


def map_distance(one: Tensor, two: Tensor) -> Tensor:
    """(B,) Euclidean distance of (B, h, w) maps; its slope at zero is zero, not undefined."""
    return (one - two).square().sum((1, 2)).clamp_min(1e-12).sqrt()
