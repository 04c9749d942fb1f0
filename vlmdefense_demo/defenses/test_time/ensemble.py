"""The plain mean over views: no parameter is adapted, and much of the family's robustness is here.

Test-time adaptation's honest baseline. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdefense_demo.defenses.multiview import Crops


@dataclass(frozen=True)
class ViewEnsemble(Crops):
    """Mean of the logits of V random crops and flips, the image among them.

    Source: Sheng et al., "R-TPT", CVPR 2025 (arXiv 2504.11195), of which this is what is
    left without the step and the weights. Of R-TPT's robust accuracy on an RN50 at 1/255, 45.2 %, the
    plain mean reaches 40.4 % (Jang et al., 2026, table 1).
    """

    kin: ClassVar[str] = ""
