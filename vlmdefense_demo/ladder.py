"""The attacker who knows the defence: three rungs above transfer, each on its own budget.

    L0 transfer    the image made against the undefended model, shown to the defence
    L1 white box   PGD through the defence as coded, one draw a step
    L2 adaptive    through the defence's own surrogate: APGD with two losses where nothing is
                   drawn, gradients averaged over draws (EOT) where something is
    L3 black box   Square: scores only, no gradient
    L4 worst       any of them (`Card.broken_by`)

Sources: Athalye et al., ICML 2018 (BPDA, EOT); Croce & Hein, ICML 2020 (APGD); Andriushchenko et
al., ECCV 2020 (Square); Croce et al., ICML 2022 (adaptive test-time defences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmdefense_demo.attacks.apgd import APGDCE, APGDDLR, APGDT
from vlmdefense_demo.attacks.ascent import PAST_BOUNDARY, Ascent
from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.attacks.eot import eot_objective
from vlmdefense_demo.attacks.l2 import PGDL2, l2_move
from vlmdefense_demo.attacks.pgd import PGD, sign_move
from vlmdefense_demo.attacks.square import Square
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.geometry import Ball, from_levels, lattice_step_size, passed_by, to_levels
from vlmdefense_demo.losses import LOSSES, margin
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run, silent
from vlmdefense_demo.types import Goal, Images, LogitFn, Logits, RungName


@dataclass(frozen=True)
class Budget:
    """What the attackers of one card may spend.

    Args:
        steps: of the white-box rung.
        adaptive_steps: of the adaptive rung, each with `draws` draws of a random defence.
        queries: of the black-box rung.
        fresh: draws, disjoint from the attacker's, in which a random defence is judged again.
    """

    steps: int = 20
    adaptive_steps: int = 20
    draws: int = 4
    queries: int = 300
    fresh: int = 8


INTERACTIVE = Budget()
BATCH = Budget(steps=20, adaptive_steps=50, draws=20, queries=5000, fresh=20)


@dataclass(frozen=True)
class Opponent:
    """An attacker with one defence in front of it.

    Args:
        ball: where its images must stay; the ladder knows L-infinity and L2.
        run: the attacker's own branch of the seed tree: it never sees the defender's draws.
    """

    defense: Defender
    clf: ZeroShotClassifier
    goal: Goal
    ball: Ball
    budget: Budget
    run: Run

    def rungs(self) -> dict[RungName, tuple[str, Callable[[Images, Images | None], Images]]]:
        """Name -> what it does in words, and the attack: (clean, transfer or None) -> images.

        Rungs that cannot be tried in this ball are left out.
        """
        steps, draws = self.budget.adaptive_steps, self.budget.draws
        drawn = f"EOT-PGD, two starts, {steps} steps × {draws} draws" if self.defense.stochastic else (
            f"APGD-CE and {'APGD-DLR' if self._dlr_fits() else 'APGD-T'}, {steps} steps each"
        )  # fmt: skip
        known = "PGD-L2" if self.ball.norm == "l2" else "PGD"
        found: dict[RungName, tuple[str, Callable[[Images, Images | None], Images]]] = {}
        if self.ball.norm != "free":
            found["white_box"] = (
                f"{known}, {self.budget.steps} steps, through the defence as coded",
                self.white_box,
            )
            found["adaptive"] = (drawn, self.adaptive)
        if self.ball.norm == "linf":
            found["black_box"] = (f"Square, {self.budget.queries} queries", self.black_box)
        return found

    def white_box(self, x: Images, warm: Images | None = None) -> Images:
        """L1: PGD through the defence as coded, from the clean image."""
        run = self._child("white_box")
        found = self._pgd(stop_early=True)(self._as_coded(run), x, self.goal, run=run)
        return self.ball.quantise(found, x)

    def _pgd(self, stop_early: bool) -> Attacker:
        if self.ball.norm == "l2":
            return PGDL2(radius=self.ball.radius, steps=self.budget.steps, stop_early=stop_early)
        return PGD(eps=self.ball.radius, steps=self.budget.steps, stop_early=stop_early)

    def adaptive(self, x: Images, warm: Images | None = None) -> Images:
        """L2: the defence's recipe; `warm` is delivered where it already breaks the surrogate."""
        run = self._child("adaptive")
        target = self.defense.surrogate(self.clf, _inner(run))
        if self.defense.on_grid:
            target = _of_the_file(target)
        if self.defense.stochastic:
            return self.ball.quantise(self._expectation(target, x, warm, run), x)
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if warm is not None:
            broken = self._margin(target, warm) >= PAST_BOUNDARY
            if bool(broken.all()):
                return warm
        images = self.ball.quantise(self._two_losses(target, x, run), x)
        return images if warm is None else torch.where(broken[:, None, None, None], warm, images)

    def black_box(self, x: Images, warm: Images | None = None) -> Images:
        """L3: Square, on the answers of the defence as coded.

        Image by image: Square asks about those that still stand, and a random defence draws for
        the images of its own run.
        """
        attack = Square(eps=self.ball.radius, queries=self.budget.queries)
        rows = []
        with torch.no_grad():
            for i, row in enumerate(x):
                run = self._child("black_box").select([i])
                goal = self.goal.select(torch.tensor([i]))
                rows.append(attack(self._as_coded(run), row[None], goal, run=run))
        return self.ball.quantise(torch.cat(rows), x)

    def _two_losses(self, target: LogitFn, x: Images, run: Run) -> Images:
        """APGD-CE, then another loss where that did not get past the boundary.

        DLR, which no temperature can flatten; the margin (APGD-T) where DLR has no meaning.
        """
        options: dict[str, Any] = {
            "norm": self.ball.norm,
            "steps": self.budget.adaptive_steps,
            "stop_early": True,
        }
        options |= {"radius" if self.ball.norm == "l2" else "eps": self.ball.radius}
        images = APGDCE(**options)(target, x, self.goal, run=run.child("ce"))
        best = self._margin(target, images)
        if bool((best >= PAST_BOUNDARY).all()):
            return images
        second: Attacker = APGDDLR(**options) if self._dlr_fits() else APGDT(**options)
        others = second(target, x, self.goal, run=run.child("second"))
        better = (self._margin(target, others) > best) & (best < PAST_BOUNDARY)
        return torch.where(better[:, None, None, None], others, images)

    def _dlr_fits(self) -> bool:
        """Whether the ratio of three logits says something: no target, two wrong labels or more."""
        allies = self.goal.allies(torch.zeros(len(self.goal.labels), len(self.clf.labels)))
        return not self.goal.targeted and int((~allies).sum(1).min()) > 1

    def _expectation(self, target: LogitFn, x: Images, warm: Images | None, run: Run) -> Images:
        """EOT-PGD on the margin, from the clean and from the transferred image, until one is through.

        Who knows the defence knows the undefended model, too: without `warm` the transferred image
        is made here, and comes second.
        """
        steps, radius = self.budget.adaptive_steps, self.ball.radius
        objective = partial(eot_objective, target, self.goal, LOSSES["margin"], self.budget.draws)
        move = (
            l2_move(x, radius, 2.5 * radius / steps)
            if self.ball.norm == "l2"
            else sign_move(x, radius, _step_size(radius, steps))
        )
        climb = Ascent(steps, enough=PAST_BOUNDARY, judge_last=True)
        images, best = climb(objective(), move, x if warm is None else warm, run)
        if bool((best >= PAST_BOUNDARY).all()):
            return images
        again = run.child("second")
        start = x if warm is not None else self._pgd(False)(self.clf, x, self.goal, run=again)
        others, value = climb(objective(), move, start, again)
        better = (value > best) & (best < PAST_BOUNDARY)
        return torch.where(better[:, None, None, None], others, images)

    def _margin(self, target: LogitFn, x: Images) -> Tensor:
        with torch.no_grad():
            return self.goal.maximise(target(x), margin)

    def _as_coded(self, run: Run) -> LogitFn:
        """The defence as a function, drawn anew at every call."""
        return Defender.surrogate(self.defense, self.clf, _inner(run))

    def _child(self, name: str) -> Run:
        return replace(self.run.child(name), trace={})


def _step_size(radius: float, steps: int) -> float:
    """Whole grey levels, unless one crosses the ball: steps along noisy slopes have to add up."""
    whole = lattice_step_size(radius, steps)
    return whole if whole < radius else min(2.5 * radius / steps, radius)


def _of_the_file(target: LogitFn) -> LogitFn:
    """What a function says of a picture as it is delivered, with the slope of the picture itself."""
    return lambda x: target(passed_by(x, from_levels(to_levels(x))))


def _inner(run: Run) -> Run:
    """For the defence's own loops: they honour Stop, but only the attack's steps are progress."""
    return replace(run.child("defence"), on_progress=silent, trace={})


def fresh_answers(
    defense: Defender, clf: ZeroShotClassifier, x: Images, draws: int, run: Run
) -> Logits:
    """(draws, B, K) logits of a random defence in draws nobody has seen."""
    quiet = replace(run, on_progress=silent, trace={})
    with torch.no_grad():
        answers = [defense(clf, x, run=quiet.child(f"fresh{i}")).logits for i in range(draws)]
    return torch.stack(answers)
