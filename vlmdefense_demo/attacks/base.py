"""What every attack's dataclass derives from, and the shared declarations of its fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.geometry import Ball
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Parameters, Range
from vlmdefense_demo.types import Encoder, Goal, Images, LogitFn

Needs = Literal["", "caption", "picture"]
Eps = Annotated[float, Range(0, 128 / 255, 1 / 255, scale=255, unit="/255"), "radius of the ball"]
Radius = Annotated[float, Range(1, 20, 0.5), "radius of the L2 ball, in pixel units"]
StepSize = Annotated[
    float, Range(0, 32 / 255, 1 / 255, scale=255, unit="/255"), "0 = 2.5 eps / steps"
]


class Attacker(Parameters, ABC):
    """An attack: `__call__(target, x, goal, *, run) -> images`.

    Class attributes:
        needs: what the goal must bring besides a label: a "caption" or a second "picture".
        interactive: whether it answers in seconds; the others are for batches.
    """

    needs: ClassVar[Needs] = ""
    interactive: ClassVar[bool] = True
    eps: float

    @abstractmethod
    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) on the 8-bit grid -> the best images found, same shape."""

    @property
    def ball(self) -> Ball:
        """The set the delivered file must lie in."""
        return Ball("linf", self.eps)

    @property
    def has_eps(self) -> bool:
        """Whether a parameter of this name is the radius of the ball."""
        return hasattr(self, "eps") and self.ball.norm == "linf"

    def expected_steps(self, n_labels: int) -> int:
        """Gradient steps and queries of its budget, to know how long it may take; 1 where it has none."""
        steps, restarts, queries = (
            getattr(self, name, 0) for name in ("steps", "restarts", "queries")
        )
        return max(1, int(steps * (1 + restarts) + queries))


def encoder(target: LogitFn, title: str) -> Encoder:
    """The target as a model with features and labels.

    Raises:
        InvalidParameter: it is only a function from pixels to logits, e.g. a defended pipeline.
    """
    if not isinstance(target, Encoder):
        raise InvalidParameter(
            f"{title} needs a model's features, and here only its answers are visible.",
            "Attack the undefended model with it.",
        )
    return target
