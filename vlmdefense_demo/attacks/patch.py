"""Patch: a small square that may look like anything, and nothing else changes.

Source: Brown et al., "Adversarial Patch", 2017 (arXiv 1712.09665). Here the patch belongs to one
image. Printable patches are optimised over small shifts (EOT) and delivered unshifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, product
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Ascent, Objective, logit_objective
from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.geometry import LEVELS, Ball
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Choice, Range
from vlmdefense_demo.types import Goal, Images, LogitFn

GREY = 128 / LEVELS
FIRST_STEP, LAST_STEP = 8, 2
SHIFT = 8 / 224
THIRDS = (0.0, 0.5, 1.0)
PLACES = {"centre": (0.5, 0.5), "corner": (1.0, 1.0)}


@dataclass(frozen=True)
class Patch(Attacker):
    """Sign steps of 8 down to 2 levels on the pixels of a square, from grey.

    Update: p <- clip01(p + a sign grad L). "best of 9" tries a grey patch at nine places (9
    forwards) and takes the one that hurts most. Then N forwards and backwards, and 1 forward.
    Differs from the paper: a patch for this image, not for every scene.
    """

    area: Annotated[float, Range(0.01, 0.3, 0.01), "share of the image"] = 0.05
    steps: Annotated[int, Range(1, 200, 1), "gradient steps"] = 60
    place: Annotated[str, Choice((*PLACES, "best of 9")), "where"] = "best of 9"
    printable: Annotated[bool, "must work when shifted a little"] = False
    stop_early: Annotated[bool, "stop one logit past the boundary"] = False

    @property
    def ball(self) -> Ball:
        """No norm: the box of pixels."""
        return Ball("free")

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the image with the patch; no pixel changes outside it."""
        mask = self._mask(target, x, goal)
        start = torch.where(mask, torch.full_like(x, GREY), x)
        steps = count()

        def move(pixels: Images, gradient: Tensor) -> Images:
            done = next(steps) / max(1, self.steps - 1)
            size = round(FIRST_STEP + (LAST_STEP - FIRST_STEP) * done) / LEVELS
            return torch.where(mask, (pixels + size * gradient.sign()).clamp(0, 1), x)

        objective = logit_objective(target, goal, LOSSES["margin"])
        if self.printable:
            objective = self._shifted(target, x, mask, goal, run)
        ascend = Ascent(
            self.steps,
            keep="last" if self.printable else "best",
            # One lucky shift is no success.
            enough=PAST_BOUNDARY if self.stop_early and not self.printable else torch.inf,
            judge_last=True,
        )
        return ascend(objective, move, start, run)[0]

    def _mask(self, target: LogitFn, x: Images, goal: Goal) -> Tensor:
        """(B, 1, H, W) bool: the square of every image."""
        if self.place in PLACES:
            return self._square(x, PLACES[self.place]).expand(len(x), -1, -1, -1)
        masks = torch.cat([self._square(x, place) for place in product(THIRDS, THIRDS)])
        values = []
        with torch.no_grad():
            for mask in masks:
                patched = torch.where(mask, torch.full_like(x, GREY), x)
                values.append(goal.maximise(target(patched), margin))
        return masks[torch.stack(values).argmax(0)]

    def _square(self, x: Images, place: tuple[float, float]) -> Tensor:
        """(1, 1, H, W) bool: a square of the wanted area at a place in shares of the free space."""
        height, width = x.shape[2:]
        side = min(max(1, round((self.area * height * width) ** 0.5)), height, width)
        top, left = round(place[1] * (height - side)), round(place[0] * (width - side))
        mask = torch.zeros(1, 1, height, width, dtype=torch.bool, device=x.device)
        mask[:, :, top : top + side, left : left + side] = True
        return mask

    def _shifted(self, target: LogitFn, x: Images, mask: Tensor, goal: Goal, run: Run) -> Objective:
        """The loss with every patch moved by up to 8 of 224 pixels, drawn anew at every call."""
        plain = logit_objective(target, goal, LOSSES["margin"])
        calls = count()
        most = max(1, round(SHIFT * x.shape[2]))

        def objective(pixels: Images) -> tuple[Tensor, Tensor]:
            draw = run.child(f"shift{next(calls)}").levels(torch.empty(len(x), 2), most) * LEVELS
            rows = []
            for row, clean, own, offset in zip(pixels, x, mask, draw.round().int(), strict=True):
                by = _inside(own[0], offset.tolist())
                moved = torch.roll(own, by, (1, 2))
                rows.append(torch.where(moved, torch.roll(row, by, (1, 2)), clean))
            return plain(torch.stack(rows))

        return objective


def _inside(mask: Tensor, offset: list[int]) -> tuple[int, int]:
    """A shift (down, right) cut so that the square of a (H, W) mask stays whole in the picture."""
    cut = []
    for lines, by in zip((mask.any(1), mask.any(0)), offset, strict=True):
        places = lines.nonzero()
        first, last = int(places[0]), int(places[-1])
        cut.append(max(-first, min(len(lines) - 1 - last, by)))
    return cut[0], cut[1]
