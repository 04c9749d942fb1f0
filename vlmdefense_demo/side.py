"""One defence of a comparison: both images, its gradient checks, the attackers who know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from vlmdefense_demo import masking
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.errors import Cancelled
from vlmdefense_demo.failures import FAILURES, noted
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.images import from_png
from vlmdefense_demo.judging import judge, predict
from vlmdefense_demo.ladder import Opponent, fresh_answers
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import shown
from vlmdefense_demo.stage import Stage
from vlmdefense_demo.survey import Entry, entry
from vlmdefense_demo.types import (
    Card,
    Cost,
    DefenseResult,
    Images,
    Logits,
    Note,
    Prediction,
    Rung,
    RungName,
)


@dataclass
class Side:
    """One defence of the comparison: its card as it grows."""

    stage: Stage
    row: Entry
    method: Defender
    card: Card = field(init=False)

    def defend(self) -> Card:
        """Both images under the defence; its own failure stays on its own card."""
        stage, first = self.stage, self.stage.card
        self.card = replace(
            first, method=self.row.id, title=self.row.title, paradigm=self.row.paradigm,
            params=shown(self.method), clean=None, attacked=None, verdict=None, cost=None,
            slowdown=None, attack=None, flags=self.row.flags, notes=(),
        )  # fmt: skip
        try:
            clean, cost, result = self._answer(stage.x)
            attacked = None
            if stage.adversarial is not None:
                attacked, cost, result = self._answer(stage.adversarial)
        except Cancelled:
            raise
        except FAILURES as error:
            self.card = replace(self.card, error=str(error))
            return self.card
        plain = first.cost.seconds if first.cost else 0.0
        self.card = replace(
            self.card,
            clean=clean,
            attacked=attacked,
            verdict=judge(clean, attacked, first.right) if attacked else None,
            cost=cost,
            slowdown=cost.seconds / plain if plain else None,
            notes=result.notes[0] if result.notes else (),
        )
        if attacked is not None and first.attack is not None and stage.adversarial is not None:
            how = f"{entry(first.attack.method).title} against the undefended model"
            spent, png = first.attack.cost, first.attack.png
            self._add("transfer", how, stage.adversarial, attacked, spent, png)
            if first.verdict == self.card.verdict == "held":
                self.card = replace(self.card, flags=(*self.card.flags, "attack_failed"))
        return self.card

    def exhibit(self) -> Card:
        """The method's own pictures and curves; one that fails leaves the card as it is."""
        stage = self.stage
        assert stage.adversarial is not None
        pair = torch.cat([stage.x, stage.adversarial])
        with noted("pictures", self._note), torch.no_grad():
            right = stage.clf.labels.index(stage.card.reference)
            shown = self.method.exhibit(stage.clf, pair, right, run=self._run())
            self.card = replace(self.card, notes=self.card.notes + shown)
        return self.card

    def check(self) -> Card:
        """GM2, GM3, GM5 and GM11: the gradient through the defence, and whether it does anything.

        GM11 asks both pictures: to leave the clean one alone is what some defences are made for.
        """
        with noted("gradient checks", self._note):
            self.card = replace(self.card, flags=self.card.flags + self._flags())
        return self.card

    def _flags(self) -> tuple[str, ...]:
        stage, goal = self.stage, self.stage.goal
        assert goal is not None
        assert self.card.clean is not None
        assert stage.card.clean is not None
        run = self._run()

        def target(x: Images) -> Logits:
            return self.method(stage.clf, x, run=run).logits

        flags = masking.slope(target, stage.x, goal).flags()
        flags += masking.probabilities(self.card.clean)
        idle = masking.inactive(self.card.clean, stage.card.clean)
        if idle and self.card.attacked and stage.card.attacked:
            idle = masking.inactive(self.card.attacked, stage.card.attacked)
        return flags + idle

    def climb(self) -> Iterator[Card]:
        """The attackers who know the defence, and after them GM7; a failure ends the climb only."""
        with noted("the attacker who knows the defence", self._note):
            yield from self._climb()
            return
        yield self.card

    def _climb(self) -> Iterator[Card]:
        stage, request = self.stage, self.stage.request
        attacker, goal = request.attacker(), stage.goal
        assert attacker is not None
        assert goal is not None
        if self.card.verdict == "wrong_clean":
            return
        run = stage.run.child(f"{request.attack}/{self.row.id}")
        opponent = Opponent(self.method, stage.clf, goal, attacker.ball, request.budget, run)
        rungs = opponent.rungs()
        for name in request.rungs:
            if name not in rungs:
                continue
            how, attempt = rungs[name]
            with stage.meter.stage() as cost:
                images = attempt(stage.x, stage.adversarial if request.climb else None)
            against = {"defense": self.row.id, "settings": shown(self.method)}
            png = stage.png(images, against | {"rung": name, "how": how})
            delivered = stage.clf.backbone.place(from_png(png))
            self._add(name, how, delivered, self._once(delivered), cost, png)
            flags = tuple(flag for flag in self.card.flags if flag != "unaware")
            self.card = replace(self.card, flags=flags)
            yield self.card
            if request.climb and self.card.ladder[-1].verdict == "fooled":
                break
        flags = masking.blind_beats_gradient(self.card.ladder)
        if flags:
            self.card = replace(self.card, flags=self.card.flags + flags)
            yield self.card

    def _add(
        self, name: RungName, how: str, x: Images, answer: Prediction, cost: Cost, png: bytes
    ) -> None:
        stage, right = self.stage, self.stage.card.right
        wrong, draws = None, 0
        if self.method.stochastic and stage.request.rungs:
            fresh = stage.request.budget.fresh
            with noted("draws nobody has seen", self._note):
                logits = fresh_answers(self.method, stage.clf, x, fresh, self._run())
                answers = predict(stage.clf.labels, logits[:, 0])
                wrong, draws = sum(a.label not in right for a in answers) / fresh, fresh
        rung = Rung(
            name, how, answer, judge(self.card.clean, answer, right), cost,
            float((x - stage.x).abs().max() * LEVELS), wrong, draws, png,
        )  # fmt: skip
        self.card = replace(self.card, ladder=(*self.card.ladder, rung))

    def _note(self, note: Note) -> None:
        self.card = replace(self.card, notes=(*self.card.notes, note))

    def _run(self) -> Run:
        return self.stage.run.child(self.row.id)

    def _once(self, x: Images) -> Prediction:
        with torch.no_grad():
            logits = self.method(self.stage.clf, x, run=self._run()).logits
        return predict(self.stage.clf.labels, logits)[0]

    def _answer(self, x: Images) -> tuple[Prediction, Cost, DefenseResult]:
        run = self._run()
        run.step(0, 1)  # a method of a single pass does not poll by itself
        result, cost = self.stage.timed(lambda: self.method(self.stage.clf, x, run=run))
        return predict(self.stage.clf.labels, result.logits)[0], cost, result
