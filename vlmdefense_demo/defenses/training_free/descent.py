"""Steps on the pixels before answering: Anti-Adversary, ET3 and the hedge defence on one engine.

Training-free. On a plain model all three make it surer of what it sees, so the first two only help where
the attack barely crossed the boundary, and the third where the noise it starts from has undone the attack.
Each assumes an attacker who ignores it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.geometry import check_step_size, in_range, l2_length, passed_by
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import (
    Adaptive,
    Cost,
    DefenseResult,
    Images,
    Labels,
    LogitFn,
    Logits,
    Note,
)

TINY = 1e-12


@dataclass(frozen=True)
class Descent(Defender):
    """Steps on the pixels down an energy of the model's own answer; a subclass says which."""

    steps: Annotated[int, Range(0, 10, 1), "0 leaves the picture alone"] = 2
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = False
    wanted: ClassVar[str] = "first answer, which it walks towards"
    recipe: ClassVar[str] = (
        "APGD with two losses and the mean of two slopes, the undefended model's where the steps begin and "
        "where they end: they follow the attack wherever it goes."
    )

    def start(self, x: Images, run: Run) -> Tensor:
        """(B, 3, H, W) the change before the first step."""
        return torch.zeros_like(x)

    @abstractmethod
    def energy(self, logits: Logits, guess: Labels) -> Tensor:
        """(B, K), (B,) the first answer -> (B,) what is lowered."""

    @abstractmethod
    def move(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """(B, 3, H, W) the next change of the pixels."""

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the changed pictures; the change is a constant to a gradient."""
        delta, notes = self._change(clf, x.detach(), run)
        image = in_range(x + delta) if self.steps else x
        features = clf.encode_image(image)
        return DefenseResult(clf.logits(features), image.detach(), features, notes)

    def expected_cost(self, n_labels: int) -> Cost:
        """A forward and a backward a step, and the answer."""
        return Cost(image_forward=self.steps + 1, image_backward=self.steps)

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The defence's answer, with the mean of two slopes: where its steps end, and where they begin.

        Against ET3 the first alone, the change held constant, leads less far than the second, and both
        together further than either (docs/attacks.md).
        """

        def target(x: Images) -> Logits:
            answer = self(clf, x, run=run).logits
            return (answer + passed_by(clf(x), answer.detach())) / 2

        return target

    def _change(
        self, clf: ZeroShotClassifier, x: Images, run: Run
    ) -> tuple[Tensor, tuple[tuple[Note, ...], ...]]:
        delta, guess = self.start(x, run), torch.empty(0, dtype=torch.long)
        energies, sure = [], []
        for i in range(self.steps):
            run.step(i, self.steps)
            with torch.enable_grad():
                leaf = delta.detach().requires_grad_()
                logits = clf(in_range(x + leaf))
                if i == 0:
                    guess = logits.detach().argmax(1)
                value = self.energy(logits, guess)
                gradient = torch.autograd.grad(value.sum(), leaf)[0]
            energies.append(value.detach())
            sure.append(logits.detach().softmax(1).amax(1))
            delta = self.move(delta, gradient)
        if not self.steps:
            return delta, ()
        rows = zip(torch.stack(energies, 1), torch.stack(sure, 1), guess.tolist(), strict=True)
        return delta, tuple(
            (
                Note(self.wanted, clf.labels[label]),
                Note("energy, per step", energy.tolist(), "series"),
                Note("confidence, per step", confidence.tolist(), "series"),
            )
            for energy, confidence, label in rows
        )


@dataclass(frozen=True)
class AntiAdversary(Descent):
    """Sign steps towards the model's first answer, whatever it is.

    Source: Alfarra et al., "Combating Adversaries with Anti-Adversaries", AAAI 2022 (arXiv
    2103.14347), two steps. Differs from the authors' code: its step of 0.15 is made for adversarially
    trained classifiers of small pictures, CLIP gets 2/255; pixels stay in their range; the first
    answer is read from the first step's own pass.

    Update: d <- d - a sign(grad CE(x + d, first answer)).
    """

    step_size: Annotated[
        float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "of a sign step"
    ] = 2 / 255

    def energy(self, logits: Logits, guess: Labels) -> Tensor:
        """(B,) cross-entropy with the first answer."""
        return F.cross_entropy(logits, guess, reduction="none")

    def move(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """A signed step down; no ball holds it."""
        return delta - self.step_size * gradient.sign()


@dataclass(frozen=True)
class ET3(Descent):
    """Steps down the energy of all answers together, which the likely ones dominate.

    Source: Mirza et al., "A Provable Energy-Guided Test-Time Defense", CVPR 2026 (arXiv 2603.26984). As in the authors' code for
    CLIP: steps of a length, in an L-infinity ball; the paper has an L2 ball. Differs: pixels stay in
    their range at every step.

    Update: d <- clip(d - a grad E / ||grad E||, -eps, eps), E = -logsumexp(logits).
    """

    step_size: Annotated[float, Range(0, 10, 0.1), "length of a step, L2 in pixel units"] = 2.5
    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "own budget"] = (
        5 / 255
    )

    def energy(self, logits: Logits, guess: Labels) -> Tensor:
        """(B,) free energy at temperature 1."""
        return -logits.logsumexp(1)

    def move(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """A step of fixed length, clipped to the ball."""
        ahead = delta - self.step_size * gradient / l2_length(gradient).clamp_min(TINY)
        return ahead.clamp(-self.eps, self.eps)


@dataclass(frozen=True)
class Hedge(Descent):
    """Sign steps away from all answers alike, from noise.

    Source: Wu et al., "Attacking Adversarial Attacks as A Defense", 2021 (arXiv 2106.04938). Made
    for adversarially trained models, in which the right answer is the one that small changes move
    least; a plain model promises nothing of the kind. Steps, step and ball as in public code of it
    (20, 0.007, 8/255). Differs: the step is a whole number of levels. Where one answer is far ahead,
    the sum grows most by setting it further ahead: what the noise makes of the picture, the steps keep.

    Update: d <- clip(d + a sign grad sum_c CE(x + d, c), -eps, eps), from d ~ U(-eps, eps); the sum is,
    up to a factor and a constant, the divergence of the answer from the uniform one.
    """

    steps: Annotated[int, Range(0, 40, 1), "0 leaves the picture alone"] = 20
    step_size: Annotated[
        float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "of a sign step"
    ] = 2 / 255
    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "own budget"] = (
        8 / 255
    )
    stochastic: ClassVar[bool] = True
    wanted: ClassVar[str] = "answer to the noise it starts from"
    recipe: ClassVar[str] = (
        "Gradients averaged over fresh starts, without the steps: they mostly keep what the start is "
        "taken for."
    )

    def check_together(self) -> None:
        """A step may not cross the whole ball."""
        check_step_size(self.step_size, self.eps)

    def start(self, x: Images, run: Run) -> Tensor:
        """Uniform noise in the ball."""
        return run.child("start").uniform(x, -self.eps, self.eps)

    def energy(self, logits: Logits, guess: Labels) -> Tensor:
        """(B,) mean log-probability of all labels: minus the mean cross-entropy."""
        return logits.log_softmax(1).mean(1)

    def move(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """A signed step down, clipped to the ball."""
        return (delta - self.step_size * gradient.sign()).clamp(-self.eps, self.eps)

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The answer to a fresh start; a gradient at the end of the steps leads less far, see docs/attacks.md."""
        calls = count()

        def target(x: Images) -> Logits:
            draw = run.child(f"draw{next(calls)}")
            return clf(in_range(x + self.start(x, draw)) if self.steps else x)

        return target
