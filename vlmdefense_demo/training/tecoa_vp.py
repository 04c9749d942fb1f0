"""Training of TeCoA's visual prompt. The inference side is defenses/training_time/tecoa_vp.py."""

from __future__ import annotations

from torch import nn

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.border import Border, framed
from vlmdefense_demo.types import Features, Images


class Framed(Backbone):
    """The model, frozen, behind a border prompt that may be trained.

    The attack goes through the prompt. Source: Mao et al., ICLR 2023 (arXiv 2212.07016).
    """

    def __init__(self, original: Backbone) -> None:
        super().__init__(
            original.name, original.model, original.tokenizer, original.preprocess, "border"
        )
        self._tower = original._tower
        self.border: nn.Module = Border(original.preprocess.size).to(original.device)

    def encode_image(self, x: Images) -> Features:
        """(B, 3, H, W) in [0, 1] -> (B, D) features of the framed pictures."""
        return super().encode_image(framed(self, x, self.border()))
