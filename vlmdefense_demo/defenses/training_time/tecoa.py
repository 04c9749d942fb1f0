"""TeCoA: an image tower fine-tuned so that attacked images still match the text of their class.

Training-time. At inference only the image tower is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.training_time.towers import RobustTower


@dataclass(frozen=True)
class TeCoA(RobustTower):
    """Source: Mao et al., "Understanding Zero-shot Adversarial Robustness for Large-Scale Models".

    ICLR 2023 (arXiv 2212.07016). Training minimises the cross-entropy of attacked photos with the
    class prompts (training/tecoa.py). The embedded model ships our own tower, trained on the
    original model's labels over the ImageNet names; real CLIP uses RobustVLM's checkpoints.
    """

    weights: ClassVar[str] = "tecoa"
