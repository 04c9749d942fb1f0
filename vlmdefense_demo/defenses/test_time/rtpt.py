"""R-TPT: tune the prompt on confident views of one image, then let reliable views vote.

Test-time adaptation. Assumes an attacker who ignores it: published robustness is measured on
images made against the undefended model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.prompts import ContextPrompts
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import (
    Adaptive,
    Cost,
    DefenseResult,
    Features,
    Images,
    LogitFn,
    Logits,
    Note,
)

KEEP = 0.1
NEIGHBOURS = 20
TEMPERATURE = 0.01
WEIGHT_DECAY = 0.01
ATTACKED_VIEWS = 8
REFRESH = 5


@dataclass(frozen=True)
class RTPT(Defender):
    """One AdamW step on the prompt's context vectors, then a reliability-weighted ensemble.

    Source: Sheng et al., "R-TPT", CVPR 2025 (arXiv 2504.11195). Differs from the authors' code:
    each view is encoded once (they encode 257 images for 64 views); a view's similarity to itself
    is removed by its index, not by "similarity >= 1.0", which rounding lets through for a third
    of the views; at least two views are kept, so fewer than ten views work; neighbours are
    clipped to the views there are. Views are crops and flips, without AugMix, 16 by default (the
    authors' 64), and then all other views are neighbours.

    Update: ctx <- AdamW step on the mean entropy of the 10 % most confident views.
    Output: sum_i w_i logits_i, w = softmax(mean of the 20 largest cosines to other views / 0.01).
    """

    views: Annotated[int, Range(2, 64, 1), "views of the image, itself included"] = 16
    steps: Annotated[int, Range(0, 4, 1), "prompt steps; 0 leaves the ensemble"] = 1
    learning_rate: Annotated[float, Range(0, 0.05, 0.001), "of AdamW"] = 0.005
    adaptive: ClassVar[Adaptive] = "eot"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, through the vote; the tuned prompt is held "
        "constant and tuned again every fifth draw."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> ensembled logits; every image gets a prompt of its own.

        The tuned prompt is a constant to an attacker's gradient, the views are differentiable.

        Raises:
            InvalidLabels: the template has no words before the label.
            MethodFailed: the model's text tower is not one of open_clip's own.
        """
        run.step(0, 2)
        views = random_views(x, self.views, run.child("views"))
        features = clf.encode_image(views).unflatten(0, (len(x), self.views))  # (B, V, D)
        prompts = clf.context_prompts()
        run.step(1, 2)
        tuned = [self._tune(clf, prompts, f.detach()) for f in features]
        rows = [self._vote(clf, f, t) for f, t in zip(features, tuned, strict=True)]
        return DefenseResult(
            torch.stack([row.logits for row in rows]),
            notes=tuple((*t.notes, *row.notes) for t, row in zip(tuned, rows, strict=True)),
        )

    def expected_cost(self, n_labels: int) -> Cost:
        """V image forwards; the text tower once per step with backward, and once after."""
        return Cost(
            image_forward=self.views,
            text_forward=n_labels * (self.steps + 1),
            text_backward=n_labels * self.steps,
        )

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """Fresh views at every call, at most eight; the prompt is tuned anew every fifth call."""
        calls = count()
        prompts = clf.context_prompts()
        few = replace(self, views=min(self.views, ATTACKED_VIEWS))
        tuned: list[_Tuned] = []

        def target(x: Images) -> Logits:
            i = next(calls)
            views = random_views(x, few.views, run.child(f"draw{i}"))
            features = clf.encode_image(views).unflatten(0, (len(x), few.views))
            if i % REFRESH == 0:
                tuned[:] = [few._tune(clf, prompts, f.detach()) for f in features]
            rows = zip(features, tuned, strict=True)
            return torch.stack([few._vote(clf, f, t).logits for f, t in rows])

        return target

    def _tune(self, clf: ZeroShotClassifier, prompts: ContextPrompts, f: Features) -> _Tuned:
        """Adapt the context to one image's (V, D) view features."""
        context = prompts.initial.clone()
        chosen = f[confident(clf.logits(f), KEEP)]
        entropies = []
        with torch.enable_grad():
            context.requires_grad_()
            step = torch.optim.AdamW([context], lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
            for _ in range(self.steps):
                text = clf.encode_context(prompts, context)
                value = entropy(clf.with_text(text).logits(chosen)).mean()
                entropies.append(float(value.detach()))
                context.grad = torch.autograd.grad(value, context)[0]
                step.step()
        with torch.no_grad():
            text = clf.encode_context(prompts, context.detach())
            entropies.append(float(entropy(clf.with_text(text).logits(chosen)).mean()))
        moved = float((context.detach() - prompts.initial).norm() / prompts.initial.norm())
        return _Tuned(
            text,
            (
                Note("mean entropy of the confident views, per step", entropies, "series"),
                Note("prompt moved, relative to its length", moved, "number"),
            ),
        )

    def _vote(self, clf: ZeroShotClassifier, f: Features, tuned: _Tuned) -> _Vote:
        logits = clf.with_text(tuned.text).logits(f)
        weights = reliability(f)
        top = [clf.labels[i] for i in logits.argmax(1).tolist()]
        votes = " · ".join(
            f"{label} {share:.0%}" for label, share in _shares(top, weights.tolist())[:3]
        )
        note = Note("weighted votes of the views", votes)
        return _Vote((weights.unsqueeze(1) * logits).sum(0), (note,))


@dataclass(frozen=True)
class _Tuned:
    text: Features  # (K, D)
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class _Vote:
    logits: Tensor  # (K,)
    notes: tuple[Note, ...]


def entropy(logits: Tensor) -> Tensor:
    """(..., K) -> (...) entropy of the softmax in nats."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def confident(logits: Tensor, share: float) -> Tensor:
    """Indices of the `share` of views (V, K) with the lowest entropy, at least two."""
    count = min(len(logits), max(2, round(share * len(logits))))
    return entropy(logits.detach()).topk(count, largest=False).indices


def reliability(features: Features) -> Tensor:
    """(V, D) unit-norm view features -> (V,) weights that sum to 1.

    A view is reliable when it has close neighbours; itself does not count.
    """
    similarity = features @ features.T
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    neighbours = min(NEIGHBOURS, len(features) - 1)
    nearest = similarity.masked_fill(itself, -torch.inf).topk(neighbours, dim=1).values
    return (nearest.mean(1) / TEMPERATURE).softmax(0)


def _shares(labels: list[str], weights: list[float]) -> list[tuple[str, float]]:
    total: dict[str, float] = {}
    for label, weight in zip(labels, weights, strict=True):
        total[label] = total.get(label, 0.0) + weight
    return sorted(total.items(), key=lambda item: -item[1])
