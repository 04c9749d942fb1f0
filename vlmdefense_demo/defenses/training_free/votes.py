"""Votes over views in which nothing is adapted: TTE, ZERO and MTA.

Training-free. Each assumes an attacker who ignores it; averaged over views, the gradient is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.multiview import Ballot, Crops, MultiView, confident, uniform
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Adaptive, Features, Images, LogitFn, Note

MARGIN = 8  # a crop may move by an eighth of the side
NOBODY = 1e-4
NEAREST, SHARPNESS, AFFINITY = 0.3, 0.2, 4.0
ROUNDS, TOLERANCE = 5, 1e-6


@dataclass(frozen=True)
class TTE(MultiView):
    """Mean of the logits of the picture, its mirror image, and shifted copies of both.

    Source: Perez et al., "Enhancing Adversarial Robustness via Test-Time Transformation Ensembling",
    ICCV Workshops 2021 (arXiv 2107.14110), flips and four crops. Differs from the authors' code: the
    crops are different ones (a loop variable caught late makes all of theirs the last), and the
    border of an eighth of the side is mirrored, not black. Places are drawn once and for all, so
    nothing is random.
    """

    views: Annotated[int, Range(2, 64, 1), "the picture, shifted copies, mirror images"] = 10
    adaptive: ClassVar[Adaptive] = "exact"
    stochastic: ClassVar[bool] = False
    recipe: ClassVar[str] = "APGD with two losses through the mean; its gradient is exact."

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """(B, 3, H, W) -> (B * views, 3, H, W): each copy is followed by its mirror image."""
        height, width = x.shape[2:]
        down, right = height // MARGIN, width // MARGIN
        padded = F.pad(x, (right, right, down, down), mode="reflect")
        generator = torch.Generator().manual_seed(0)
        pictures = [x, x.flip(3)]
        while len(pictures) < self.views:
            place = torch.rand(2, generator=generator).tolist()
            top, left = int(place[0] * (2 * down + 1)), int(place[1] * (2 * right + 1))
            crop = padded[..., top : top + height, left : left + width]
            pictures += [crop, crop.flip(3)]
        return torch.stack(pictures[: self.views], dim=1).flatten(0, 1)

    def attacked(self) -> TTE:
        """Itself, with all its views."""
        return self

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The defence itself: nothing is drawn."""
        return Defender.surrogate(self, clf, run)


@dataclass(frozen=True)
class Zero(Crops):
    """The most confident views vote, one view one vote.

    Source: Farina et al., "Frustratingly Easy Test-Time Adaptation of Vision-Language Models",
    NeurIPS 2024 (arXiv 2405.18330): the mean of the answers as the temperature goes to zero. Differs:
    views are crops and flips, 16 by default. A label without a vote gets a ten-thousandth. To a
    gradient a vote counts as the softmax it was taken from, because its own slope is zero.
    """

    share: Annotated[float, Range(0.1, 1, 0.05), "of the views that may vote"] = 0.3
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views; every vote is given the slope of its softmax."
    )

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """One vote for each of the chosen views."""
        logits = clf.logits(f)
        chosen = confident(logits, self.share)
        weights = torch.zeros(len(f), device=f.device)
        weights[chosen] = 1 / len(chosen)
        return Votes(logits, weights, tuple(chosen.tolist()))


class Votes(Ballot):
    """Heads are counted; among equals the mean softmax of the voters decides, not the list's order."""

    @property
    def answer(self) -> Tensor:
        """(K,) log of the share of votes."""
        soft = self.logits.softmax(1)
        hard = F.one_hot(self.logits.argmax(1), soft.shape[1]).to(soft)
        counted = self.weights @ (soft + (hard - soft).detach())
        # Far less than one vote of the most views there are.
        return (counted + NOBODY * (1 + self.weights @ soft.detach())).log()


@dataclass(frozen=True)
class MTA(Crops):
    """Classify the densest point among the views' features.

    Source: Zanella & Ben Ayed, "On the Test-Time Zero-Shot Generalization of Vision-Language Models",
    CVPR 2024 (arXiv 2405.02266): mean shift with an inlierness for every view, which its neighbours in
    answer share. Differs: views are crops and flips, 16 by default.

    Update: y <- softmax((K(m) + 4 A y) / 0.2), m <- normalise(sum_i y_i K_i f_i), from the image
    itself; K_i = exp(-||f_i - m||^2 / 2 h_i^2), A = P P^T of the views' softmax, h_i^2 half the mean
    squared distance to the nearest 30 %.
    """

    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, through the features; who counts how much is "
        "held constant."
    )

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Any) -> Ballot:
        """The mode is a weighted mean of the features."""
        with torch.no_grad():
            weights = inlierness(f, clf.logits(f).softmax(1))
        return combined(clf, f, weights)


@dataclass(frozen=True)
class OneFeature(Ballot):
    """One feature answers for all; the weights are its coefficients.

    Args:
        own: (K,) its logits.
    """

    own: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def answer(self) -> Tensor:
        """(K,) the logits of the one feature."""
        return self.own


def combined(
    clf: ZeroShotClassifier,
    f: Features,
    weights: Tensor,
    chosen: tuple[int, ...] = (),
    notes: tuple[Note, ...] = (),
) -> OneFeature:
    """The answer of the feature sum_i w_i f_i, brought to length 1."""
    feature = unit((weights.unsqueeze(1) * f).sum(0, keepdim=True))
    return OneFeature(clf.logits(f), weights.detach(), chosen, notes, clf.logits(feature)[0])


def inlierness(f: Features, probs: Tensor) -> Tensor:
    """(V, D) features, (V, K) answers -> (V,) what each counts in the mode; they sum to 1."""
    distances = (2 - 2 * f @ f.T).clamp_min(0)
    nearest = max(1, round(NEAREST * (len(f) - 1)))
    inner = distances.sort(dim=1).values[:, 1 : nearest + 1]
    width = (0.5 * inner.mean(1)).clamp_min(1e-6)  # h^2
    affinity = probs @ probs.T
    y, mode = uniform(f), f[0]
    for _ in range(ROUNDS):
        y = _agree(y, _kernel(f, mode, width), affinity)
        before, mode = mode, _climb(f, y, mode, width)
        if (mode - before).norm() < TOLERANCE:
            break
    weights = y * _kernel(f, mode, width)
    return weights / weights.sum().clamp_min(1e-30)


def _kernel(f: Features, mode: Tensor, width: Tensor) -> Tensor:
    return (-(f - mode).square().sum(1) / (2 * width)).exp()


def _agree(y: Tensor, density: Tensor, affinity: Tensor) -> Tensor:
    for _ in range(ROUNDS):
        before, y = y, ((density + AFFINITY * affinity @ y) / SHARPNESS).softmax(0)
        if (y - before).norm() < TOLERANCE:
            break
    return y


def _climb(f: Features, y: Tensor, mode: Tensor, width: Tensor) -> Tensor:
    for _ in range(ROUNDS):
        weights = y * _kernel(f, mode, width)
        before, mode = mode, unit((weights.unsqueeze(1) * f).sum(0, keepdim=True))[0]
        if (mode - before).norm() < TOLERANCE:
            break
    return mode
