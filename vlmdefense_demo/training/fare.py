"""FARE's training objective. The inference side is defenses/training_time/fare.py."""

from __future__ import annotations

from torch import Tensor

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.objective import Batch
from vlmdefense_demo.types import Features, Images


class FAREObjective:
    """Keep the embedding where the original tower puts the clean photo; no label is read.

    Source: Schlarmann et al., ICML 2024 (arXiv 2402.12336), eq. 3.
    """

    def attack(self, student: Backbone, x: Images, batch: Batch) -> Tensor:
        """(B,) the same distance that training lowers."""
        return squared_distance(student.encode_image(x), batch.original)

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) squared distance to the original's clean embedding."""
        return squared_distance(student.encode_image(attacked), batch.original)


def squared_distance(attacked: Features, original: Features) -> Tensor:
    """(B,) squared distance of un-normalised embeddings, summed over dimensions."""
    return (attacked - original).square().sum(1)
