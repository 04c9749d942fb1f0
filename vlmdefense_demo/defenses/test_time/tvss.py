"""T-VSS: shift the features of all views along the directions in which the views differ.

Test-time adaptation in feature space: no tower is differentiated, so it costs little more than the
views. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.multiview import Ballot, Crops, entropy, reliability
from vlmdefense_demo.defenses.test_time.tuning import Adam
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Features, Note

NEIGHBOURS, TEMPERATURE = 5, 0.05
ENERGY = 0.9
FLAT = 1e-6


@dataclass(frozen=True)
class Shift:
    """What was adapted to one image.

    Args:
        delta: (D,) added to the unit-norm feature of every view.
        notes: the subspace, the entropy, the length of the shift.
    """

    delta: Tensor
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class TVSS(Crops):
    """A step of AdamW in the subspace of the views' differences, then a reliability-weighted vote.

    Source: Jang et al., "T-VSS: Test-Time Visual Subspace Steering", 2026 (arXiv 2606.23132; written
    from the text, no code found). Differs: 16 views by default, and AugMix on them
    only if asked for. The differences of the views from the image span a space; its main
    directions, with 90 % of the energy, are kept. The first step of AdamW is one of the rate along each
    of them, whatever the slope.

    Update, for one step: D = V a, a = -rate sign(grad sum_i w_i H(p(f_i + D))), w = softmax(mean of the 5 largest
    cosines to other views / 0.05). Output: sum_i w_i p(f_i + D), probabilities.
    """

    steps: Annotated[int, Range(0, 5, 1), "steps of the shift; 0 leaves the vote"] = 1
    step_size: Annotated[float, Range(0, 0.5, 0.01), "of a step along each direction"] = 0.1
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, through the vote; the shift is held constant "
        "and found again every fifth draw."
    )

    def adapt(self, clf: ZeroShotClassifier, features: Tensor, run: Run) -> Sequence[Shift]:
        """A shift for every image; the towers are not asked again."""
        return [self._shift(clf, f, run) for f in features]

    def _shift(self, clf: ZeroShotClassifier, f: Features, run: Run) -> Shift:
        basis = main_directions(f[1:] - f[0])
        weights = reliability(f, NEIGHBOURS, TEMPERATURE)
        a = torch.zeros(len(basis), device=f.device)
        descend = Adam(self.step_size, self.steps)
        seen = []
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = a.detach().requires_grad_()
                value = (weights * entropy(clf.logits(unit(f + leaf @ basis)))).sum()
                gradient = torch.autograd.grad(value, leaf)[0]
            seen.append(value.detach())
            a = descend(a, gradient.nan_to_num(0, 0, 0))
        delta = a @ basis
        seen.append((weights * entropy(clf.logits(unit(f + delta)))).sum())
        return Shift(
            delta,
            (
                Note(
                    "weighted entropy of the views, per step", torch.stack(seen).tolist(), "series"
                ),
                Note("directions kept", f"{len(basis)} of {len(f) - 1}"),
                Note("shift, relative to a feature's length", float(delta.norm()), "number"),
            ),
        )

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """The views' probabilities, weighted by reliability."""
        logits = clf.logits(unit(f + state.delta))
        weights = reliability(f, NEIGHBOURS, TEMPERATURE)
        return Mixture(logits, weights, (), state.notes)


@dataclass(frozen=True)
class Mixture(Ballot):
    """A vote of probabilities instead of logits."""

    @property
    def answer(self) -> Tensor:
        """(K,) log of the weighted mean of the views' probabilities."""
        return (self.weights.log().unsqueeze(1) + self.logits.log_softmax(1)).logsumexp(0)


def main_directions(differences: Tensor) -> Tensor:
    """(N, D) -> (m, D) orthonormal rows: the fewest main directions with 90 % of the energy.

    Equal views differ in no direction: m = 0.
    """
    _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
    energy = sizes.square()
    total = energy.sum()
    if not total > FLAT**2:
        return directions[:0]
    m = int((energy.cumsum(0) < ENERGY * total).sum()) + 1
    return directions[:m]
