"""SS-TPT: trust views that lie near the others and whose answer survives a small change.

Test-time adaptation, made for few views. Assumes an attacker who ignores it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.defenses.multiview import Ballot, confident, entropy
from vlmdefense_demo.defenses.test_time.tuning import PromptTuner, Tuned
from vlmdefense_demo.defenses.weak import weak_copies
from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Features, Images, Logits

SELECTED = 3
SUITABLE, STABLE = 0.4, 0.6
TEMPERATURE = 0.25
TINY = 1e-8


@dataclass(frozen=True)
class SSTPT(PromptTuner):
    """R-TPT's loss plus agreement with the weighted other views; suitable, stable views vote.

    Source: Kim & Um, "SS-TPT", ICML 2026 (arXiv 2606.06943). Suitability is the inverse mean squared
    distance to the other views, stability the inverse divergence from the same view slightly turned,
    shifted and recoloured; both are stretched to [0, 1] and weighted 0.4 and 0.6. Differs from the
    authors' code: the reference that a view is pulled to is the weighted mean of all other views,
    and small changes are drawn for every view instead of once for the batch.

    Update: ctx <- AdamW step on mean H(p_i) + mean KL(ref_i || p_i) over the three most confident.
    Output: sum_i w_i logits_i, w = softmax((0.4 suitability + 0.6 stability) / 0.25).
    """

    agreement: Annotated[float, Range(0, 4, 0.1), "weight of the pull towards other views"] = 1.0

    def draw(self, clf: ZeroShotClassifier, x: Images, run: Run) -> Images:
        """The views of an image, then the same views slightly changed."""
        views = super().draw(clf, x, run)
        weak = weak_copies(views, len(x), run.child("weak"))
        pairs = (t.unflatten(0, (len(x), -1)) for t in (views, weak))
        return torch.cat(list(pairs), dim=1).flatten(0, 1)

    def chosen(self, clf: ZeroShotClassifier, f: Features) -> Tensor:
        """Indices of the three most confident views."""
        return confident(clf.logits(f[: self.views]), 0.0, SELECTED)

    def objective(
        self, clf: ZeroShotClassifier, tuned: ZeroShotClassifier, f: Features, chosen: Tensor
    ) -> Tensor:
        """() mean entropy, plus the divergence from what the other views say together."""
        log_p = tuned.logits(f[: self.views]).log_softmax(1)
        weights = self.trust(clf, f)
        others = weights.expand(len(weights), -1) * (1 - torch.eye(len(weights), device=f.device))
        reference = (others / others.sum(1, keepdim=True)) @ log_p.detach().exp()
        pull = divergence(reference[chosen].clamp_min(TINY).log(), log_p[chosen])
        return (entropy(log_p[chosen]) + self.agreement * pull).mean()

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Tuned) -> Ballot:
        """All views answer against the tuned prompt, weighted by suitability and stability."""
        return replace(super().vote(clf, f, state), weights=self.trust(clf, f))

    def trust(self, clf: ZeroShotClassifier, f: Features) -> Tensor:
        """(2 V, D) features of views and changed views -> (V,) weights that sum to 1."""
        views, weak = f.chunk(2)
        score = SUITABLE * stretched(suitability(views))
        score = score + STABLE * stretched(stability(clf.logits(views), clf.logits(weak)))
        return (score / TEMPERATURE).softmax(0)

    def expected_cost(self, n_labels: int) -> Cost:
        """R-TPT's, with every view encoded a second time, slightly changed."""
        cost = super().expected_cost(n_labels)
        return replace(cost, image_forward=2 * self.views)


def suitability(views: Features) -> Tensor:
    """(V, D) unit-norm features -> (V,) inverse of the mean squared distance to the other views."""
    distance = (2 - 2 * views @ views.T).clamp_min(0)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    mean = distance.masked_fill(itself, 0).sum(1) / (len(views) - 1)
    return 1 / (mean + TINY)


def stability(logits: Logits, weak: Logits) -> Tensor:
    """(V, K) answers before and after a small change -> (V,) inverse of their divergence.

    The divergence is half the sum of KL(m || p) and KL(m || q), m the mean of both: the authors'
    form, with the arguments of the usual one swapped. In double precision: of two sure views nothing
    else would be left than rounding, of either sign.
    """
    # On the CPU, because not every device has double precision.
    log_p, log_q = (answer.cpu().double().log_softmax(1) for answer in (logits, weak))
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    apart = 0.5 * (divergence(middle, log_p) + divergence(middle, log_q))
    return (1 / (apart.clamp_min(0) + TINY)).to(logits)


def stretched(scores: Tensor) -> Tensor:
    """(V,) -> the same, from 0 for the smallest to 1 for the largest; equal ones become 0."""
    low, high = scores.amin(), scores.amax()
    return (scores - low) / (high - low).clamp_min(TINY)
