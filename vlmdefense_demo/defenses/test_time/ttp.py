"""TTP: a frame around the picture tells who was attacked, and is then tuned for that one picture.

Test-time adaptation in the input: no weight and no prompt changes. Rests on one observation: a frame
moves every pixel, which disturbs an attack more than what the picture shows. Assumes an attacker who
ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.multiview import (
    ATTACKED_VIEWS,
    confident,
    entropy,
    kept,
    strip,
    thumbnail,
    votes,
)
from vlmdefense_demo.defenses.test_time.tvss import Mixture
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.filters import framed
from vlmdefense_demo.geometry import passed_by
from vlmdefense_demo.models.classifier import ZeroShotClassifier
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

DARKEST = 10 / 255


@dataclass(frozen=True)
class Adapted:
    """What was done for the images the gate opened for, B of them.

    Args:
        ballots: how the framed views of each image voted.
        pictures: (B, n, 3, H, W) what voted.
        frames: (B, 1, 3, H, W) after the last step; the inside is covered by the picture.
    """

    ballots: list[Mixture]
    pictures: Tensor
    frames: Tensor


@dataclass(frozen=True)
class TTP(Defender):
    """A gate on the cosine with the framed picture, a frame tuned by one step, a weighted vote.

    Source: Li et al., "TTP: Test-Time Padding", CVPR 2026 (arXiv 2512.16523; written from the text,
    the authors' code was not read). Where the text is silent: the picture is shrunk into the frame,
    so that the model sees its own input size and nothing is cut off; the frame's width grows with
    that size; the step is the first of an adaptive optimiser, that is, the sign of the gradient (a
    plain step at their rate of 5 grey levels would move nothing). Differs from the paper: views are crops
    and flips, without AugMix, 16 by default instead of 64, and at least two are kept.
    The published threshold belongs to ViTs: half of the embedded model's clean photos fall below it.

    Gate: cos(f(x), f(black frame around x)) above the threshold counts as clean and gets the plain
    answer. Update: B the 10 % most confident views of x, frame r ~ U(0, 10/255) an image;
    r <- clip(r - a sign grad mean_B H(p(r around x_i))). Output: sum_B w_i p(r around x_i),
    probabilities; w = softmax(cos(z_i, f(black frame around x)) - cos(z_i, f(x))), z_i the framed
    view's feature.
    """

    views: Annotated[int, Range(2, 64, 1), "views of the image, itself included"] = 16
    threshold: Annotated[float, Range(0, 1, 0.01), "gate: clean above this cosine"] = 0.8
    border: Annotated[int, Range(4, 96, 4), "width of the frame, in pixels of 224"] = 32
    step_size: Annotated[float, Range(0, 64 / 255, 1 / 255, scale=255, unit="/255"), "per step"] = (
        5 / 255
    )
    steps: Annotated[int, Range(0, 4, 1), "of the frame; 0 leaves it as it was drawn"] = 1
    adaptive: ClassVar[Adaptive] = "eot"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over fresh views and frames, the tuned frame held constant; picture and "
        "black frame are fooled alike, which keeps the gate shut."
    )

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits; log-probabilities of the vote where the gate opened.

        Only images the gate opens for are adapted to. The gate and the tuned frame are constants to
        an attacker's gradient, which follows the branch that is active.
        """
        run.step(0, self.steps + 2)
        own, framed = self._pair(clf, x)
        cosine = (own * framed).sum(1).detach()
        answers = list(clf.logits(own))
        notes = [self._gate(float(c)) for c in cosine]
        rows = self._flagged(cosine)
        if rows:
            adapted = self._adapt(clf, x[rows], own[rows], framed[rows], run.select(rows))
            for row, ballot in zip(rows, adapted.ballots, strict=True):
                answers[row] = ballot.answer
                notes[row] += (*ballot.notes, votes(clf, ballot))
        return DefenseResult(torch.stack(answers), notes=tuple(notes))

    def expected_cost(self, n_labels: int) -> Cost:
        """With the gate open: the gate, the other views, n framed ones a step and once more.

        A shut gate leaves 2 forwards and no backward.
        """
        n = kept(self.views)
        return Cost(
            image_forward=2 + (self.views - 1) + n * (self.steps + 1), image_backward=n * self.steps
        )

    def attacked(self) -> TTP:
        """With at most eight views."""
        return replace(self, views=min(self.views, ATTACKED_VIEWS))

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The defence's answer, with the slope of the mean log-probability of what may count.

        That is the picture, its black frame and, if the gate opens, the vote. Fooling the first two alike
        brings their features together, which shuts the gate, and then the plain answer counts. At most
        eight fresh views a call.
        """
        calls = iter(range(2**62))
        few = self.attacked()

        def target(x: Images) -> Logits:
            draw = run.child(f"draw{next(calls)}")
            own, framed = few._pair(clf, x)
            pair = torch.stack([clf.logits(own), clf.logits(framed)]).log_softmax(-1)
            smooth, answers = list(pair.mean(0)), list(pair[0].detach())
            rows = few._flagged((own * framed).sum(1).detach())
            if rows:
                found = few._adapt(clf, x[rows], own[rows], framed[rows], draw.select(rows))
                for row, ballot in zip(rows, found.ballots, strict=True):
                    smooth[row] = (2 * smooth[row] + ballot.answer) / 3
                    answers[row] = ballot.answer.detach()
            return passed_by(torch.stack(smooth), torch.stack(answers))

        return target

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """What the gate compared the attacked picture with; if it opened, the tuned frame and the vote."""
        x = pair[1:]
        own, black = self._pair(clf, x)
        shown = [["the gate's black frame", thumbnail(self._around(x, torch.zeros_like(x))[0])]]
        if not self._flagged((own * black).sum(1)):
            return (Note("frames of the attacked picture", shown, "images"),)
        found = self._adapt(clf, x, own, black, run)
        shown.append(["the tuned frame", thumbnail(self._around(x, found.frames[:, 0])[0])])
        return (
            Note("frames of the attacked picture", shown, "images"),
            strip(clf, found.pictures[0], found.ballots[0]),
        )

    def _pair(self, clf: ZeroShotClassifier, x: Images) -> tuple[Features, Features]:
        """Features of the pictures as they are and in a black frame."""
        both = clf.encode_image(torch.cat([x, self._around(x, torch.zeros_like(x))]))
        own, framed = both.chunk(2)
        return own, framed

    def _flagged(self, cosine: Tensor) -> list[int]:
        """Which images count as attacked."""
        return (cosine <= self.threshold).nonzero().flatten().tolist()

    def _around(self, x: Tensor, frames: Tensor) -> Tensor:
        """(..., 3, H, W) shrunk into the border of frames that broadcast; differentiable in both."""
        return framed(x, frames, self.border)

    def _adapt(
        self, clf: ZeroShotClassifier, x: Images, own: Features, framed: Features, run: Run
    ) -> Adapted:
        """Frames tuned on the confident views, and the vote of these views inside them.

        Views are chosen first and only the chosen ones are differentiated: the others would add
        nothing to the gradient. The first view is the image itself and known from the gate.
        """
        batch = len(x)
        views = random_views(x, self.views, run.child("views")).unflatten(0, (batch, -1))
        with torch.no_grad():
            others = clf.encode_image(views[:, 1:].flatten(0, 1)).unflatten(0, (batch, -1))
            seen = torch.cat([own.unsqueeze(1), others], dim=1)
            chosen = torch.stack([confident(clf.logits(f)) for f in seen])
        rows = torch.arange(batch, device=x.device).unsqueeze(1)
        picked = views[rows, chosen]
        frames, series = self._tune(clf, picked.detach(), self._drawn(x, run), run)
        run.step(self.steps + 1, self.steps + 2)
        pictures = self._around(picked, frames)
        z = clf.encode_image(pictures.flatten(0, 1)).unflatten(0, (batch, -1))
        score = (z * framed.unsqueeze(1)).sum(-1) - (z * own.unsqueeze(1)).sum(-1)
        ballots = []
        for i, f in enumerate(z):
            logits = clf.logits(f)
            values = [*(h[i] for h in series), entropy(logits.detach()).mean()]
            title = "mean entropy of the framed views, per step"
            notes = (Note(title, torch.stack(values).tolist(), "series"),)
            ballots.append(Mixture(logits, score[i].softmax(0), notes=notes))
        return Adapted(ballots, pictures, frames)

    def _drawn(self, x: Images, run: Run) -> Tensor:
        """(B, 1, 3, H, W) the frames to start from: nearly black."""
        return run.child("frame").uniform(x.detach(), 0.0, DARKEST).unsqueeze(1)

    def _tune(
        self, clf: ZeroShotClassifier, views: Tensor, frames: Tensor, run: Run
    ) -> tuple[Tensor, list[Tensor]]:
        """Signed steps down the views' mean entropy; also the (B,) entropies before each."""
        series = []
        for i in range(self.steps):
            run.step(i + 1, self.steps + 2)
            with torch.enable_grad():
                leaf = frames.detach().requires_grad_()
                inside = self._around(views, leaf).flatten(0, 1)
                f = clf.encode_image(inside).unflatten(0, views.shape[:2])
                value = torch.stack([entropy(clf.logits(rows)).mean() for rows in f])
                gradient = torch.autograd.grad(value.sum(), leaf)[0]
            series.append(value.detach())
            frames = (frames - self.step_size * gradient.sign()).clamp(0, 1)
        return frames, series

    def _gate(self, cosine: float) -> tuple[Note, ...]:
        verdict = (
            "judged clean: the plain answer"
            if cosine > self.threshold
            else "frame tuned, views vote"
        )
        gauge = {"value": cosine, "threshold": self.threshold}
        return (
            Note("cosine with the framed picture: clean above the threshold", gauge, "gauge"),
            Note("gate", verdict),
        )
