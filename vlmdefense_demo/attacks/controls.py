"""Controls: changes of the same size that are no attack. If one of them fools, the photo is easy.

Source: Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261), for blur and JPEG as corruptions.
Differs from the benchmark: they are held within the attack's ball, and the noise is uniform.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch

from vlmdefense_demo import filters
from vlmdefense_demo.attacks.ascent import Best
from vlmdefense_demo.attacks.base import Attacker, Eps
from vlmdefense_demo.geometry import LEVELS, Ball, project_linf
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn

Same = Annotated[bool, "at most eps a pixel, like an attack"]


@dataclass(frozen=True)
class Noise(Attacker):
    """Uniform noise of whole levels in {-e .. e}; of several draws the worst is delivered.

    Differs from the benchmark, whose noise is Gaussian and not bounded.
    """

    eps: Eps = 4 / 255
    draws: Annotated[int, Range(1, 64, 1), "draws"] = 8

    @torch.no_grad()
    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the noisy image with the largest margin."""
        best = Best.of(x, torch.inf)
        for i in range(self.draws):
            run.step(i, self.draws)
            noise = run.child(f"draw{i}").levels(x, int(self.eps * LEVELS + 1e-6))
            noisy = (x + noise).clamp(0, 1)
            value = goal.maximise(target(noisy), margin)
            run.record("margin", value)
            best.update(noisy, value)
        return best.images


@dataclass(frozen=True)
class _Filter(Attacker):
    """A filter of the whole picture, by default held within eps of it."""

    eps: Eps = 4 / 255
    same_budget: Same = True

    @property
    def ball(self) -> Ball:
        """The attack's ball, or none."""
        return Ball("linf", self.eps) if self.same_budget else Ball("free")

    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> the filtered images; asks the model nothing."""
        run.step(0, 1)
        out = self.filtered(x)
        return project_linf(out, x, self.eps) if self.same_budget else out

    @abstractmethod
    def filtered(self, x: Images) -> Images:
        """The filter at full strength."""


@dataclass(frozen=True)
class Blur(_Filter):
    """Gaussian blur. Differs from the benchmark: held within the ball."""

    sigma: Annotated[float, Range(0.1, 8, 0.1), "width in pixels"] = 1.5

    def filtered(self, x: Images) -> Images:
        """Blurred with a kernel of three sigma on each side."""
        return filters.blur(x, self.sigma)


@dataclass(frozen=True)
class JPEGControl(_Filter):
    """A JPEG file, decoded again. Differs from the benchmark: held within the ball."""

    quality: Annotated[int, Range(5, 95, 5), "of the file"] = 50

    def filtered(self, x: Images) -> Images:
        """Every image through Pillow's encoder."""
        return filters.jpeg(x, self.quality)
