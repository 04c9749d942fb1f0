"""TGA-ZSR: TeCoA that must keep looking where the original model looks.

Training-time. At inference only the image tower is another one; the attention map is a picture of
what training kept in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.training_time.towers import RobustTower


@dataclass(frozen=True)
class TGAZSR(RobustTower):
    """Source: Yu et al., "Text-Guided Attention is All You Need", NeurIPS 2024 (arXiv 2410.21802).

    Training adds to TeCoA's cross-entropy the distances of the text-guided attention maps, under
    attack and clean, from the original model's clean map (training/tga_zsr.py). Simplified on the
    embedded tower, which averages locations: the map is the class activation, which is exact there,
    in place of the patch tokens of a ViT.
    """

    weights: ClassVar[str] = "tga_zsr"
