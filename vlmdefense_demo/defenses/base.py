"""What every defence's dataclass derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import count
from typing import ClassVar

from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Parameters
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, LogitFn, Logits, Note


class Defender(Parameters, ABC):
    """A defence: `__call__(clf, x, *, run) -> DefenseResult`.

    Class attributes:
        adaptive: how its gradient relates to the truth: "exact", "bpda" or "eot".
        stochastic: whether its answer depends on a draw.
        recipe: what an attacker who knows it does, in one sentence.
        weights: the id its trained weights are listed under (models/variants.py), "" without any.
        kin: id of a simpler defence whose adversarial images carry over; in batches its attacker is
            tried first, once for all that share it.
        on_grid: whether who knows it has to judge himself on whole grey levels, as rounding would undo
            what is won closely.
        proves: whether it states something that holds for every small change of the picture it gets.
        leads: whether another defence can go on with what it hands over: `model` and `picture`.
        passage: what becomes of a gradient on its way back through `picture`, {} its title; "" where
            `adaptive` says it.
    """

    adaptive: ClassVar[Adaptive]
    stochastic: ClassVar[bool]
    recipe: ClassVar[str]
    weights: ClassVar[str] = ""
    kin: ClassVar[str] = ""
    on_grid: ClassVar[bool] = False
    proves: ClassVar[bool] = False
    leads: ClassVar[bool] = False
    passage: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits under the defence, in the ambient grad mode."""

    def model(self, clf: ZeroShotClassifier) -> ZeroShotClassifier:
        """The classifier a second defence works on; the same one unless a tower is swapped."""
        return clf

    def picture(self, x: Images, run: Run) -> Images:
        """(B, 3, H, W) what a second defence sees, with the slope an attacker gets; x unless filtered."""
        return x

    @abstractmethod
    def expected_cost(self, n_labels: int) -> Cost:
        """Passes per image."""

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """Pictures and curves for the card, made after the answer and not part of its cost.

        Args:
            pair: (2, 3, H, W) the clean and the attacked picture.
            right: position of the right label.
            run: the one the answers were made with, so that draws can be repeated.
        """
        return ()

    def attacked(self) -> Defender:
        """The setting whose surrogate that is: a cheaper one where the recipe says so.

        Settings that have it in common have the same adaptive attacker.
        """
        return self

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """What the attacker who knows the defence differentiates: the defence, drawn anew per call.

        Override it where a smoother or cheaper function leads an attacker further.
        """
        calls = count()

        def target(x: Images) -> Logits:
            return self(clf, x, run=run.child(f"draw{next(calls)}")).logits

        return target
