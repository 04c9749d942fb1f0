"""TGA-ZSR: TeCoA that must keep looking where the original model looks.

Training-time. At inference only the image tower is another one; the attention map is a picture of
what training kept in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.pictures import under_map
from vlmdefense_demo.defenses.training_time.towers import RobustTower
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.maps import attention
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Images, Note


@dataclass(frozen=True)
class TGAZSR(RobustTower):
    """Source: Yu et al., "Text-Guided Attention is All You Need", NeurIPS 2024 (arXiv 2410.21802).

    Training adds to TeCoA's cross-entropy the distances of the text-guided attention maps, under
    attack and clean, from the original model's clean map (training/tga_zsr.py). Simplified on the
    embedded tower, which averages locations: the map is the class activation, which is exact there,
    in place of the patch tokens of a ViT.
    """

    weights: ClassVar[str] = "tga_zsr"

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """Where both towers look for the right label, before and after the attack."""
        text = clf.text_features[right].expand(len(pair), -1)
        pictures = []
        for who, tower in (("undefended", clf.backbone), ("TGA-ZSR", self.tower(clf.backbone))):
            maps = attention(tower.encode_located(pair)[1], text)
            for what, x, where in zip(("clean", "attacked"), pair, maps, strict=True):
                pictures.append([f"{who}, {what}", under_map(x, where)])
        title = f"where it looks for “{clf.labels[right]}”"
        return (*super().exhibit(clf, pair, right, run=run), Note(title, pictures, "images"))
