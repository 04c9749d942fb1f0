"""FARE: an image tower fine-tuned to keep its own embeddings under attack.

Training-time. The price was paid once; at inference only the image tower is another one, and the
attacker may know it completely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.training_time.towers import RobustTower


@dataclass(frozen=True)
class FARE(RobustTower):
    """Source: Schlarmann et al., "Robust CLIP", ICML 2024 (arXiv 2402.12336).

    Training minimises max ||v(x + d) - v0(x)||^2 over the ball, with v0 the original tower, on
    un-normalised embeddings and without labels (training/fare.py). The embedded model ships our own
    tower; real CLIP uses the authors' checkpoints.
    """

    weights: ClassVar[str] = "fare"
