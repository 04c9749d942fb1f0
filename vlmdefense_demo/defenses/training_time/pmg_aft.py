"""PMG-AFT: TeCoA whose answers under attack stay close to what the original model says.

Training-time. At inference only the image tower is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.training_time.towers import RobustTower


@dataclass(frozen=True)
class PMGAFT(RobustTower):
    """Source: Wang et al., "Pre-trained Model Guided Fine-Tuning", CVPR 2024 (arXiv 2401.04350).

    Training adds two divergences to TeCoA's cross-entropy: from the original model's answer on the
    same attacked photo, and from the tower's own clean answer (training/pmg_aft.py, which lists
    what differs from the authors' code). No checkpoint was published.
    """

    weights: ClassVar[str] = "pmg_aft"
