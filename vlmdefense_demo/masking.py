"""Is the gradient an attacker sees the true one? Cheap checks that run with every comparison.

A defence can look strong because it hides its gradient, not because it resists. Each check returns
the id of a flag (`flags.FLAGS`). Numbers GM1 to GM14 follow the list in docs/attacks.md.
Sources: Athalye et al., ICML 2018; AutoAttack's run-time warnings (Croce & Hein, ICML 2020); Pintor
et al., NeurIPS 2022 (indicators of attack failure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmdefense_demo.losses import margin
from vlmdefense_demo.types import Goal, Images, LogitFn, Prediction, Rung

STEP = 0.05  # L2 length of the finite difference, in pixel units: below rounding of the answer
SAME_SLOPE = (0.8, 1.25)
SAME_ANSWER = 0.999
FLAT = 0.3
CANARY_LEVELS = 4


@dataclass(frozen=True)
class Slope:
    """The slope of the margin along its own gradient, as autograd says and as measured.

    Args:
        claimed: (B,) gradient norm.
        measured: (B,) central difference along the gradient.
        blank: (B,) share of pixels whose gradient is exactly zero.
    """

    claimed: Tensor
    measured: Tensor
    blank: Tensor

    def flags(self) -> tuple[str, ...]:
        """GM3 where there is no gradient, else GM2 where it is not the slope; of the first row."""
        claimed, measured, blank = (float(t[0]) for t in (self.claimed, self.measured, self.blank))
        if claimed == 0 or blank > 0.5:
            return ("no_gradient",)
        low, high = SAME_SLOPE
        return () if low <= measured / claimed <= high else ("wrong_gradient",)


def slope(target: LogitFn, x: Images, goal: Goal) -> Slope:
    """1 forward and backward and 2 forwards through a target that must not draw between calls."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = goal.maximise(target(leaf), margin)
        gradient = (
            torch.autograd.grad(value.sum(), leaf)[0]
            if value.requires_grad
            else torch.zeros_like(leaf)
        )
    claimed = gradient.flatten(1).norm(dim=1)
    along = gradient / claimed.clamp_min(1e-30)[:, None, None, None]
    with torch.no_grad():
        ahead, behind = (goal.maximise(target(x + s * along), margin) for s in (STEP, -STEP))
    blank = (gradient == 0).flatten(1).float().mean(1)
    return Slope(claimed, (ahead - behind) / (2 * STEP), blank)


def inactive(defended: Prediction, undefended: Prediction) -> tuple[str, ...]:
    """GM11: on this picture the defence answers as if it were not there; two logits cannot tell."""
    pair = np.array([defended.logits, undefended.logits], dtype=np.float64)
    if pair.shape[1] < 3 or not pair.std(axis=1).all():
        return ()
    correlation = np.asarray(np.corrcoef(pair))[0, 1]
    same = correlation > SAME_ANSWER and defended.label == undefended.label
    return ("inactive",) if same else ()


def probabilities(answer: Prediction) -> tuple[str, ...]:
    """GM5: the method returned probabilities where logits belong; their gradient saturates."""
    values = answer.logits
    one = abs(sum(values) - 1) < 1e-4 and all(0 <= v <= 1 for v in values)
    return ("not_logits",) if one else ()


def canary(levels: float, fooled: bool, targeted: bool) -> tuple[str, ...]:
    """GM1: an undefended model that survives 4/255 says that the attack is weak."""
    return ("weak_attack",) if levels >= CANARY_LEVELS and not fooled and not targeted else ()


def stalled(margins: Sequence[float], reached: bool) -> tuple[str, ...]:
    """GM14: the attack went nowhere at first, or passed a success that its file lost."""
    flags = []
    start = margins[: max(2, round(FLAT * len(margins)))]
    if len(margins) > 3 and not reached and max(start) - min(start) < 1e-6:
        flags.append("flat_start")
    if margins and max(margins) > 0 and not reached:
        flags.append("lost_success")
    return tuple(flags)


def blind_beats_gradient(ladder: Sequence[Rung]) -> tuple[str, ...]:
    """GM7: an attacker without the gradient got through where one with it did not.

    A random defence counts as broken where most fresh draws are wrong, so that luck is no sign.
    """
    broke = {
        rung.name: rung.verdict == "fooled" if rung.wrong is None else rung.wrong >= 0.5
        for rung in ladder
    }
    blind = broke.get("transfer", False) or broke.get("black_box", False)
    return ("blind_wins",) if blind and not broke.get("white_box", True) else ()


def noise_fools(answers: Tensor, goal: Goal) -> tuple[str, ...]:
    """GM9: uniform noise of the attack's size already does it in half of the (n, K) draws."""
    again = Goal(goal.labels.expand(len(answers)), goal.targeted, goal.groups)
    return ("noise_enough",) if bool(again.reached(answers).float().mean() >= 0.5) else ()
