"""What every defence that tunes the prompt on one image shares: the step, and what it costs.

The context vectors are an argument of the text tower, so that tuning writes nothing to the model
and there is nothing to reset: no image ever starts from the prompt of the one before (the authors'
codes of R-TPT, A-TPT and SS-TPT attack with such a stale prompt).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.multiview import (
    Ballot,
    Crops,
    confident,
    entropy,
    only_first,
)
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Cost, Features, Note

WEIGHT_DECAY = 0.01
TINY = 1e-8


@dataclass(frozen=True)
class Tuned:
    """The prompt of one image.

    Args:
        text: (K, D) unit-norm text features.
        chosen: the views it was tuned on.
        notes: entropy by step, and how far the prompt moved.
    """

    text: Features
    chosen: tuple[int, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class PromptTuner(Crops):
    """AdamW steps on the context vectors; an objective and a vote make it a method.

    The text tower's graph at the hand prompt is shared by all images of a request. The
    first step of AdamW from an empty state needs no optimiser: every coordinate moves by the rate.
    """

    steps: Annotated[int, Range(0, 4, 1), "prompt steps; 0 leaves the hand prompt"] = 1
    learning_rate: Annotated[float, Range(0, 0.05, 0.001), "of AdamW"] = 0.005
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, through the vote; the tuned prompt is held "
        "constant and tuned again every fifth draw."
    )

    def chosen(self, clf: ZeroShotClassifier, f: Features) -> Tensor:
        """Indices of the views to tune on: the tenth that is most confident, at least two."""
        return confident(clf.logits(f[: self.views]))

    @abstractmethod
    def objective(
        self, clf: ZeroShotClassifier, tuned: ZeroShotClassifier, f: Features, chosen: Tensor
    ) -> Tensor:
        """() what is lowered.

        Args:
            clf: against the hand prompt.
            tuned: against the prompt as it is now; its text features carry the gradient.
            f: (n, D) constant features of one image's pictures.
            chosen: indices of the views to tune on.
        """

    def vote(self, clf: ZeroShotClassifier, f: Features, state: Tuned) -> Ballot:
        """The image itself answers, against the tuned prompt."""
        views = f[: self.views]
        logits = clf.with_text(state.text).logits(views)
        return Ballot(logits, only_first(views), state.chosen, state.notes)

    def adapt(self, clf: ZeroShotClassifier, features: Tensor, run: Run) -> Sequence[Tuned]:
        """A prompt for every image.

        Raises:
            InvalidLabels: the template has no words before the label.
            MethodFailed: no prompt can be learned for the model's text tower.
        """
        with torch.enable_grad():
            return [self._tune(clf, f, run) for f in features]

    def _tune(self, clf: ZeroShotClassifier, f: Features, run: Run) -> Tuned:
        chosen = self.chosen(clf, f)
        prompts, initial, text = clf.hand_prompt()
        context, step = initial, Adam(self.learning_rate, self.steps)
        seen = []
        for i in range(self.steps):
            run.step(i, self.steps)
            tuned = clf.with_text(text)
            seen.append(entropy(tuned.logits(f[chosen]).detach()).mean())
            value = self.objective(clf, tuned, f, chosen)
            gradient = torch.autograd.grad(value, context, retain_graph=i == 0)[0]
            context = step(context.detach(), gradient.nan_to_num(0, 0, 0)).requires_grad_()
            with torch.set_grad_enabled(i + 1 < self.steps):
                text = clf.encode_context(prompts, context)
        final = text.detach()
        seen.append(entropy(clf.with_text(final).logits(f[chosen])).mean())
        moved = (context.detach() - initial.detach()).norm() / initial.detach().norm()
        return Tuned(
            final,
            tuple(chosen.tolist()),
            (
                Note(
                    "mean entropy of the confident views, per step",
                    torch.stack(seen).tolist(),
                    "series",
                ),
                Note("prompt moved, relative to its length", float(moved), "number"),
            ),
        )

    def expected_cost(self, n_labels: int) -> Cost:
        """V image forwards; the text tower back and forth per step, the hand prompt once a request."""
        return Cost(
            image_forward=self.views,
            text_forward=n_labels * self.steps,
            text_backward=n_labels * self.steps,
        )


class Adam:
    """AdamW on one tensor: the first step in closed form, an optimiser only where more follow."""

    def __init__(self, rate: float, steps: int) -> None:
        self.rate, self.steps = rate, steps
        self._optimiser: torch.optim.Optimizer | None = None
        self._p = torch.empty(0)

    def __call__(self, p: Tensor, gradient: Tensor) -> Tensor:
        """The next value of `p`, which stays as it is."""
        if self.steps == 1:
            return first_step(p, gradient, self.rate)
        if self._optimiser is None:
            self._p = p.clone()
            self._optimiser = torch.optim.AdamW(
                [self._p], lr=self.rate, weight_decay=WEIGHT_DECAY, eps=TINY
            )
        self._p.grad = gradient
        self._optimiser.step()
        return self._p.clone()


def first_step(p: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """AdamW's first step from an empty state: p (1 - rate decay) - rate g / (|g| + 1e-8).

    A sign step, so a factor of the loss does not matter.
    """
    return p * (1 - rate * WEIGHT_DECAY) - rate * gradient / (gradient.abs() + TINY)
