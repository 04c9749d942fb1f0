"""What every detector's dataclass derives from, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Parameters
from vlmdefense_demo.types import Cost, Images, Note

# Pictures through the tower at once: copies of a batch are made one such part after another.
CHUNK = 16


@dataclass(frozen=True)
class DetectorResult:
    """What a detector returns.

    Args:
        scores: (B,) larger = more suspicious.
        notes: one tuple of notes an image.
    """

    scores: Tensor
    notes: tuple[tuple[Note, ...], ...]


class Detector(Parameters, ABC):
    """A detector: `__call__(clf, x, *, run) -> DetectorResult`.

    Class attributes:
        stochastic: whether its score depends on a draw.
        measure: what the score is, in words for its gauge.
        top: where the gauge ends; a larger score stands at its end.
        evasion: what an attacker who knows it does, in one sentence (`evasion.py` does it).
    """

    stochastic: ClassVar[bool]
    measure: ClassVar[str]
    top: ClassVar[float]
    evasion: ClassVar[str]

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DetectorResult:
        """(B, 3, H, W) -> scores, without a gradient; at most `CHUNK` pictures at once.

        Raises:
            InvalidImage: these are no pictures of this model.
        """
        check_pictures(clf, x)
        scores, notes = [], []
        for start in range(0, len(x), CHUNK):
            run.step(start, len(x))
            rows = list(range(start, min(start + CHUNK, len(x))))
            with torch.no_grad():
                parts = self.parts(clf, x[rows].detach(), run=run.select(rows))
                scores.append(self.combined(parts))
            notes += [self.notes(row) for row in parts.T.tolist()]
        return DetectorResult(torch.cat(scores), tuple(notes))

    def score(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(B,) the same score with a gradient to the pixels, in the ambient grad mode.

        Filters without a slope pass the gradient on as if they were not there (BPDA).
        """
        return self.combined(self.parts(clf, x, run=run))

    @abstractmethod
    def parts(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> Tensor:
        """(P, B) what is measured, in the ambient grad mode."""

    def combined(self, parts: Tensor) -> Tensor:
        """(P, B) -> (B,) the score; the only part unless there are several."""
        return parts[0]

    def notes(self, parts: list[float]) -> tuple[Note, ...]:
        """The measured parts of one image, for people."""
        return ()

    @abstractmethod
    def expected_cost(self, n_labels: int) -> Cost:
        """Passes per image."""

    def exhibit(self, clf: ZeroShotClassifier, pair: Images, *, run: Run) -> tuple[Note, ...]:
        """Curves for the panel, made after the score and not part of its cost.

        Args:
            pair: (2, 3, H, W) the clean and the attacked picture.
        """
        return ()


def check_pictures(clf: ZeroShotClassifier, x: Images) -> None:
    """Refuse what is no batch of pictures at the model's size.

    Raises:
        InvalidImage: wrong shape, or values outside [0, 1].
    """
    side = clf.backbone.preprocess.size
    if x.dim() != 4 or tuple(x.shape[1:]) != (3, side, side) or not len(x):
        raise InvalidImage(
            f"A detector expects pictures of shape (B, 3, {side}, {side}), got {tuple(x.shape)}.",
            "Load them with load_image.",
        )
    if not bool(((x >= 0) & (x <= 1)).all()):  # NaN is neither
        raise InvalidImage("A detector expects pixels in [0, 1].", "Divide levels by 255.")


def apart(one: Tensor, two: Tensor) -> Tensor:
    """(B, D) unit-norm features -> (B,) 1 - their cosine, in [0, 2]."""
    return 1 - (one * two).sum(1)
