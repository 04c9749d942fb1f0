"""CLIPure-Cos: turn the image's feature towards that of an empty sentence, and classify what is left.

Training-free, and nearly free: no pass through a tower. Published as robust to AutoAttack; here it is
shown with what its gradient is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models.classifier import ZeroShotClassifier, unit
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
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

MODES = ("as coded", "through the steps", "past the steps")


@dataclass(frozen=True)
class CLIPureCos(Defender):
    """Steps on the sphere, up the cosine with the mean feature of 80 prompts without a class.

    Source: Zhang et al., "CLIPure", ICLR 2025 (arXiv 2502.18176). Differs from the authors' code:
    every image by itself (they normalise the step over the batch, so that a picture's answer
    depends on its neighbours).

    Update: u <- normalise(u + s g), g the unit tangent at u towards t. All of it happens in the plane
    of u and t, so it can only add a multiple of t, the same for every class of every image: a prior.
    With s = 30 a step turns by 88 degrees. A feature that is nearer to t overshoots, the next step
    turns back, and after an even number of steps, as published, it is where it started; one that is
    further away ends as its own mirror image. As coded the direction is a constant to an attacker's
    gradient, and each step leaves about one part in s of it: no gradient arrives, though nothing was
    purified.
    """

    steps: Annotated[int, Range(0, 12, 1), "0 leaves the feature alone"] = 10
    step_size: Annotated[float, Range(0.05, 30, 0.05), "length of a step along the tangent"] = 30.0
    gradient: Annotated[str, Choice(MODES), "what a gradient sees of the steps"] = "as coded"
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = False
    recipe: ClassVar[str] = (
        "APGD with two losses; forwards go through the steps, gradients past them, as if they were "
        "not there."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the turned features."""
        u = clf.encode_image(x)
        z, cosines = self._turned(u, clf.blank_text())
        return DefenseResult(clf.logits(z), features=z, notes=self._notes(clf, cosines))

    def expected_cost(self, n_labels: int) -> Cost:
        """One forward; the prompts without a class are encoded once a request."""
        return Cost(image_forward=1)

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The same function, with a gradient."""
        seen = replace(self, gradient="past the steps")
        return partial(_logits, seen, clf, run)

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """How much of the undefended model's gradient reaches the attacked picture, three ways."""
        shares = self.gradient_shares(clf, pair[1:], right, run=run)
        text = " · ".join(f"{mode} {share:.1g}" for mode, share in zip(MODES, shares, strict=True))
        return (Note("gradient at the picture, over the undefended model's", text),)

    def gradient_shares(
        self, clf: ZeroShotClassifier, x: Images, right: int, *, run: Run
    ) -> tuple[float, ...]:
        """(1, 3, H, W) -> the gradient's norm over the undefended model's, in each of `MODES`."""
        plain = _slope(clf, x, right).norm().clamp_min(1e-30)
        methods = (replace(self, gradient=mode) for mode in MODES)
        slopes = (_slope(partial(_logits, method, clf, run), x, right) for method in methods)
        return tuple(float(slope.norm() / plain) for slope in slopes)

    def _turned(self, u: Features, blank: Features) -> tuple[Features, Tensor]:
        """(B, D) -> the features after the steps, and (steps + 1, B) cosines with the blank."""
        z, cosines = u, [u @ blank]
        for _ in range(self.steps):
            start = z.detach() if self.gradient == "as coded" else z
            along = unit(blank - (start @ blank).unsqueeze(1) * start)
            z = unit(z + self.step_size * along)
            cosines.append(z @ blank)
        if self.gradient == "past the steps":
            z = u + (z - u).detach()
        return z, torch.stack(cosines).detach()

    def _notes(self, clf: ZeroShotClassifier, cosines: Tensor) -> tuple[tuple[Note, ...], ...]:
        prior = clf.text_features @ clf.blank_text()
        favoured = clf.labels[int(prior.argmax())]
        return tuple(
            (
                Note("cosine with the empty sentence, per step", series.tolist(), "series"),
                Note(
                    "the prior that a turn can add", f"highest for “{favoured}”, for every picture"
                ),
            )
            for series in cosines.T
        )


def _logits(method: Defender, clf: ZeroShotClassifier, run: Run, x: Images) -> Logits:
    return method(clf, x, run=run).logits


def _slope(function: LogitFn, x: Images, right: int) -> Tensor:
    """The gradient of the right label's lead over the mean of all, at the picture."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = function(leaf)
        return torch.autograd.grad(logits[0, right] - logits[0].mean(), leaf)[0]
