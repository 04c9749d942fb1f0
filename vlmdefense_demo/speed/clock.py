"""Clocks: at the doors of a model while something runs it, and around a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vlmdefense_demo.geometry import from_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.types import Features, Images, Logits

LABELS = ("cat", "dog", "lion", "cheetah", "coffee", "rocket", "person", "tower", "motorcycle",
          "car")  # fmt: skip


class Clock:
    """Adds up what a function takes, forwards and backwards, while something else runs it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)`, timed."""
        entered: list[float] = []
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda _: self._note(entered[-1]))
        start = now()
        out = function(x)
        self._note(start)
        if out.requires_grad:
            out.register_hook(lambda _: entered.append(now()))
        return out

    def _note(self, start: float) -> None:
        self.seconds += now() - start


class TimedTower(Backbone):
    """The same model with a clock at its image tower's doors."""

    def __init__(self, original: Backbone, clock: Clock) -> None:
        super().__init__(original.name, original.model, original.tokenizer, original.preprocess)
        self._tower, self.clock = original._tower, clock

    def encode_image(self, x: Images) -> Features:
        """As ever."""
        return self.clock(super().encode_image, x)


class TimedModel(ZeroShotClassifier):
    """The same classifier with a clock around it, from pixels to features and from those to logits."""

    def __init__(self, backbone: Backbone, clock: Clock) -> None:
        super().__init__(backbone, LABELS)
        self.clock = clock

    def encode_image(self, x: Images, normalize: bool = True) -> Features:
        """As ever."""
        return self.clock(partial(super().encode_image, normalize=normalize), x)

    def logits(self, features: Features) -> Logits:
        """As ever."""
        return self.clock(super().logits, features)


def noise(backbone: Backbone, n: int) -> Images:
    """(n, 3, H, W) pictures of noise, always the same, in whole grey levels."""
    size = backbone.preprocess.size
    levels = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    return backbone.place(from_levels(levels))


def seconds(work: Callable[[], object]) -> float:
    """What one call takes, a GPU's share included."""
    start = now()
    work()
    return now() - start


def _after_gpu() -> float:
    """The time when all that was given to a GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


# Asked once: looking for a GPU at every reading takes longer than the loss that is being timed.
now = _after_gpu if torch.cuda.is_available() else time.perf_counter
