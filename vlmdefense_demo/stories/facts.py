"""What a finished comparison says: every number of a lecture comes from here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from vlmdefense_demo.export import Story, read_story
from vlmdefense_demo.stories.recipes import FOLDER, Recipe
from vlmdefense_demo.stories.say import Say, capital, listed, several
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import AttackReport, Card, Cost, Paradigm, Prediction, RungName, Verdict

RUNGS: tuple[RungName, ...] = ("transfer", "white_box", "adaptive", "black_box")
VERDICTS: tuple[Verdict, ...] = ("held", "fooled", "wrong_clean")


@dataclass(frozen=True)
class Facts:
    """A story's results, by what a lecture asks for.

    Args:
        recipe: what was run.
        story: what came out, as read from disk.
    """

    recipe: Recipe
    story: Story

    @property
    def plain(self) -> Card:
        """The undefended model's card."""
        return self.story.cards[0]

    @property
    def clean(self) -> Prediction:
        """Its answer on the clean picture."""
        return cast("Prediction", self.plain.clean)

    @property
    def attacked(self) -> Prediction:
        """Its answer on the attacked file."""
        return cast("Prediction", self.plain.attacked)

    @property
    def report(self) -> AttackReport:
        """The attack as delivered."""
        return cast("AttackReport", self.plain.attack)

    @property
    def fooled(self) -> bool:
        """Whether the undefended model was."""
        return self.plain.verdict == "fooled"

    @property
    def defended(self) -> tuple[Card, ...]:
        """The cards of all defences that ran."""
        return tuple(card for card in self.story.cards[1:] if not card.error)

    @property
    def climbed(self) -> tuple[Card, ...]:
        """The defences that an attacker who knows them was tried on."""
        return tuple(card for card in self.defended if len(card.ladder) > 1)

    def of(self, paradigm: Paradigm) -> tuple[Card, ...]:
        """The cards of one paradigm."""
        return tuple(card for card in self.defended if card.paradigm == paradigm)

    def card(self, method: str) -> Card:
        """The card of a method."""
        return next(card for card in self.story.cards if card.method == method)

    def attack(self, say: Say) -> str:
        """The attack with its radius: "PGD within 4 of 255 levels"."""
        eps, title = self.report.params.get("eps"), entry(self.report.method).title
        return title if eps is None else say("attack.within", attack=title, eps=f"{eps:g}")

    @property
    def short(self) -> str:
        """The attack under its picture: "PGD, ε 4"."""
        eps = self.report.params.get("eps")
        return entry(self.report.method).title + (f", ε\u00a0{eps:g}" if eps is not None else "")

    @property
    def spent(self) -> tuple[int, int]:
        """Forward and backward passes of the attacker, without the one that verified the file."""
        return self.report.cost.image_forward - 1, self.report.cost.image_backward


def load(recipe: Recipe) -> Facts:
    """A recipe's shipped story.

    Raises:
        InvalidImage: there is none, or it is of another version.
    """
    return Facts(recipe, read_story(FOLDER / recipe.slug))


def percent(p: float) -> str:
    """Whole percent, but never a rounded 100 or 0 for something that is neither."""
    if 0 < p < 0.0005:
        return "<\u00a00.1\u00a0%"
    if 0.9995 <= p < 1:
        return ">\u00a099.9\u00a0%"
    places = 1 if 0 < p < 0.005 or 0.995 <= p < 1 else 0
    return f"{100 * p:.{places}f}\u00a0%"


def answer(prediction: Prediction, say: Say) -> str:
    """The most probable label with its probability: "lion, 84 %"."""
    return say("answer", label=prediction.label, share=percent(prediction.prob))


def titles(cards: Iterable[Card], say: Say) -> str:
    """The names of some methods: "FARE and TeCoA"."""
    return several([card.title for card in cards], say)


def passes(forward: int, backward: int, say: Say) -> str:
    """A cost in words: "1 forward and 1 backward pass"."""
    if not forward and not backward:
        return say("passes.none")
    kind, last = ("both", backward) if backward else ("forward", forward)
    one = ".one" if last == 1 else ""
    return say(f"passes.{kind}{one}", forward=forward, backward=backward)


def outcome(cards: Sequence[Card], say: Say) -> str:
    """Who held, who was fooled and who was wrong before, against who does not know them."""
    parts = [
        say(f"outcome.{verdict}", titles=titles(some, say))
        for verdict in VERDICTS
        if (some := [card for card in cards if card.verdict == verdict])
    ]
    return capital(say("outcome", parts=listed(parts, say)))


def dearest(cards: Sequence[Card]) -> Card:
    """The card with the most passes through the image tower, then through the text tower."""

    def price(card: Card) -> tuple[int, int]:
        cost = card.cost or Cost()
        text = cost.text_forward + cost.text_backward
        return cost.image_forward + cost.image_backward, text

    return max(cards, key=price)
