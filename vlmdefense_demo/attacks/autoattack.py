"""AutoAttack, standard version: four attacks without a parameter to tune, for batches.

Source: Croce & Hein, ICML 2020 (arXiv 2003.01690), L-infinity. Works for any number of labels from
two on, where the reference needs ten: APGD-T and FAB-T take as many targets as there are wrong
labels, and the targeted DLR loss falls back to the margin below four. Anything less than this
composition at its full budget is not AutoAttack and carries its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from vlmdefense_demo.attacks.apgd import APGDCE, APGDT
from vlmdefense_demo.attacks.base import Attacker, Eps
from vlmdefense_demo.attacks.fab import FABT
from vlmdefense_demo.attacks.square import Square
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Goal, Images, LogitFn


def standard(eps: float, steps: int = 100, queries: int = 5000) -> tuple[Attacker, ...]:
    """The four parts, cheapest first."""
    return (
        APGDCE(eps=eps, steps=steps, stop_early=True),
        APGDT(eps=eps, steps=steps, stop_early=True),
        FABT(eps=eps, steps=steps),
        Square(eps=eps, queries=queries, rescale=False),
    )


def worst_of(parts: Sequence[Attacker], target: LogitFn, x: Images, goal: Goal, run: Run) -> Images:
    """Each part on the images that still stand; judged on what the file will hold."""
    images = x
    with torch.no_grad():
        standing = (~goal.reached(target(x))).nonzero().squeeze(1)
    for part in parts:
        if not len(standing):
            break
        here = run.child(type(part).__name__.lower()).select(standing.tolist())
        here = replace(here, trace={})  # series of four attacks on ever fewer images do not add up
        found = part(target, x[standing], goal.select(standing), run=here)
        found = part.ball.quantise(found, x[standing]).to(x)
        images = images.index_copy(0, standing, found)
        with torch.no_grad():
            held = ~goal.select(standing).reached(target(found))
        standing = standing[held]
    return images


@dataclass(frozen=True)
class AutoAttack(Attacker):
    """APGD-CE, APGD-T, FAB-T and Square, each on the images the earlier ones left standing."""

    interactive: ClassVar[bool] = False
    eps: Eps = 4 / 255

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball."""
        return worst_of(standard(self.eps), target, x, goal, run)
