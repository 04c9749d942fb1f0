"""MAC: TTC with several views and the opposite gate. What moves far under a small change is pushed.

Training-free. TTC's weak noise moves an attacked picture less than a clean one; a turn, a shift or a
blur moves it more, and that is what MAC measures. Assumes an attacker who ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.defenses.multiview import thumbnail
from vlmdefense_demo.defenses.training_free.counterattack import boxed, drift, pushed
from vlmdefense_demo.defenses.weak import weak_copies
from vlmdefense_demo.geometry import check_step_size, in_range
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, Note

SOFTNESS = 0.01
NOTHING = 1e-4  # of a change of 8/255: a hundredth of a grey level


class Counter(NamedTuple):
    """What every view got.

    Args:
        delta: (B * V, 3, H, W) the weighted counterattack.
        corruption: (B, V) relative drift under a small change.
        weight: (B, V) from 0 to 1, what the counterattack was multiplied with.
        drifts: (B, steps) relative drift of the picture itself on the way.
    """

    delta: Tensor
    corruption: Tensor
    weight: Tensor
    drifts: Tensor


@dataclass(frozen=True)
class MAC(Defender):
    """Views, a corruption for each, a weighted counterattack on each, and the mean of their logits.

    Source: Kim & Um, "When CLIP Sees More, It Fights Back Harder", CVPR 2026. Beside TTC: two
    views, a ball of 8/255, four steps of a quarter of it, the last step instead of a weighted sum,
    a soft gate of the opposite sign. Differs from the authors' code: the border of a turned view is
    mirrored, not black; its hue is turned in YIQ; fp32; a weight below a ten-thousandth counts as
    none, and a batch without any spends no steps.

    Views: the picture and small changes of it (defenses/weak.py). Corruption of a view v:
    c = ||f(v') - f(v)|| / ||f(v)||, v' a fresh small change of v; weight w = sigmoid((c - threshold)
    / 0.01). Update: d <- clip(d + a sign grad ||f(v + d) - f(v)||^2), N times from noise. Answer: mean
    of the logits of v + w d.
    The published threshold 0.7 belongs to OpenAI's models; it suits the embedded one, too.
    """

    views: Annotated[int, Range(1, 8, 1), "the picture and small changes of it"] = 2
    eps: Annotated[float, Range(0, 16 / 255, 1 / 255, scale=255, unit="/255"), "own budget"] = (
        8 / 255
    )
    step_size: Annotated[float, Range(0, 8 / 255, 1 / 255, scale=255, unit="/255"), "per step"] = (
        2 / 255
    )
    steps: Annotated[int, Range(0, 10, 1), "counterattack steps; 0 leaves the noise"] = 4
    threshold: Annotated[float, Range(0, 4, 0.05), "gate: attacked above this drift"] = 0.7
    adaptive: ClassVar[Adaptive] = "bpda"
    stochastic: ClassVar[bool] = True
    recipe: ClassVar[str] = (
        "Gradients averaged over freshly drawn views, with the counterattack held constant, because "
        "sign has no slope to follow."
    )

    def check_together(self) -> None:
        """A step may not cross the whole ball."""
        check_step_size(self.step_size, self.eps)

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> mean logits of the counterattacked views.

        Views are differentiable; the counterattack is a constant to an attacker's gradient.
        """
        views = self._views(x, run)
        found = self._counter(clf, views.detach(), len(x), run)
        logits = clf(in_range(views + found.delta)).unflatten(0, (len(x), -1)).mean(1)
        rows = zip(found.corruption, found.weight, found.drifts, strict=True)
        return DefenseResult(logits, notes=tuple(self._notes(*row) for row in rows))

    def expected_cost(self, n_labels: int) -> Cost:
        """A view: itself, its change, the steps, the answer. A shut gate leaves 3 forwards a view."""
        return Cost(
            image_forward=self.views * (self.steps + 3), image_backward=self.views * self.steps
        )

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """The views of the attacked picture, and what each got."""
        views = self._views(pair[1:], run)
        found = self._counter(clf, views, 1, run)
        rows = zip(in_range(views + found.delta), found.corruption[0], found.weight[0], strict=True)
        shown = [[f"drift {c:.2f} · pushed {w:.0%}", thumbnail(view)] for view, c, w in rows]
        return (Note("views of the attacked picture, counterattacked", shown, "images"),)

    def _views(self, x: Images, run: Run) -> Images:
        """(B * V, 3, H, W), the views of an image next to each other, itself first."""
        others = self.views - 1
        if not others:
            return x
        copies = weak_copies(x.repeat_interleave(others, 0), len(x), run.child("views"))
        return torch.cat([x.unsqueeze(1), copies.unflatten(0, (len(x), -1))], 1).flatten(0, 1)

    def _counter(self, clf: ZeroShotClassifier, views: Images, batch: int, run: Run) -> Counter:
        with torch.no_grad():
            probes = weak_copies(views, batch, run.child("probe"))
            anchor, moved = clf.encode_image(torch.cat([views, probes]), normalize=False).chunk(2)
        length = anchor.norm(dim=1)
        corruption = (moved - anchor).norm(dim=1) / length
        weight = ((corruption - self.threshold) / SOFTNESS).sigmoid()
        weight = torch.where(weight < NOTHING, 0, weight)
        noise = run.child("noise").uniform(views.unflatten(0, (batch, -1)), -self.eps, self.eps)
        delta, drifts = boxed(views, noise.flatten(0, 1), self.eps), []
        for i in range(self.steps if bool(weight.any()) else 0):
            run.step(i, self.steps)
            leaf, moved = drift(clf, views, anchor, delta)
            drifts.append((moved.detach().norm(dim=1) / length)[:: self.views])
            delta = pushed(views, leaf, moved, self.step_size, self.eps)
        series = torch.stack(drifts, 1) if drifts else length.new_empty(batch, 0)
        corruption, each = (t.unflatten(0, (batch, -1)) for t in (corruption, weight))
        return Counter(weight[:, None, None, None] * delta, corruption, each, series)

    def _notes(self, corruption: Tensor, weight: Tensor, drifts: Tensor) -> tuple[Note, ...]:
        gauge = {"value": float(corruption[0]), "threshold": self.threshold}
        words = " · ".join(f"{w:.0%}" for w in weight.tolist())
        notes = (
            Note("drift under a small change", gauge, "gauge"),
            Note(
                "counterattack on each view", words if bool(weight.any()) else "none: judged clean"
            ),
        )
        series = Note("drift under the counterattack, per step", drifts.tolist(), "series")
        return (*notes, series) if len(drifts) else notes
