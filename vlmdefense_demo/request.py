"""What a person asks for: one picture, one attack, many defences, and who the attacker is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.errors import InvalidLabels, InvalidParameter
from vlmdefense_demo.judging import find_label
from vlmdefense_demo.labels import (
    DEFAULT_TEMPLATE,
    clean_template,
    grouped_labels,
    split_labels,
)
from vlmdefense_demo.ladder import INTERACTIVE, Budget
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Images, RungName

Values = Mapping[str, Any]
AimKind = Literal["wrong", "runner-up", "least likely", "label", "caption", "picture"]
AIMS: tuple[AimKind, ...] = get_args(AimKind)
AWARE: tuple[RungName, ...] = ("white_box", "adaptive", "black_box")


@dataclass(frozen=True)
class Aim:
    """Where the attack should lead.

    Args:
        kind: any "wrong" answer, the clean "runner-up", the "least likely" label, a "label" of
            the list, a "caption" of one's own (it joins the labels), or what a second "picture"
            shows.
        text: the label or the caption.
        picture: (1, 3, H, W) the second picture.
    """

    kind: AimKind = "wrong"
    text: str = ""
    picture: Images | None = None

    @classmethod
    def at(cls, text: str | None = "", kind: str = "", picture: Images | None = None) -> Aim:
        """A goal as a person fills it in: a target given without a kind of goal is meant."""
        text = (text or "").strip()
        if kind in ("", "wrong"):
            kind = "picture" if picture is not None else "label" if text else "wrong"
        return cls(kind, text, picture)  # type: ignore[arg-type] # `check_request` refuses others

    @property
    def word(self) -> str:
        """The text as a label: a caption loses the signs that have a meaning in a label list."""
        if self.kind != "caption":
            return self.text
        return " ".join(self.text.replace(",", " ").replace("=", " ").split())


@dataclass(frozen=True)
class Request:
    """One comparison.

    Args:
        image: (1, 3, H, W) at the model's size, on the 8-bit grid.
        labels: 2 to 100 labels; "dog = puppy" makes two labels one answer.
        template: with one ``{}``.
        attack: id of an attack, its parameters in display units; None only classifies.
        defenses: id, or "first+second" -> parameters in display units, in the order of the cards.
        reference: the true label, if a person knows it; else the undefended clean answer.
        aim: where the attack should lead.
        seed: of all noise.
        rungs: attackers who know the defence, in the order they are tried; () is nobody.
        climb: stop at the first of them that breaks the defence, and let the adaptive one start
            from the image made against the undefended model. False tries all, from scratch.
        budget: what they may spend.
        repeats: runs behind the time of a short defence; 0 takes the first as it comes.
        checks: look for masked gradients and put what is found on the cards.
        exhibits: add each defence's pictures and curves to its card.
        looks: add to the undefended card where the model looks on both pictures.
        learned: prompts of one's own, by the method that uses them.
    """

    image: Images
    labels: Sequence[str]
    template: str = DEFAULT_TEMPLATE
    attack: str | None = "pgd"
    attack_params: Values = field(default_factory=dict)
    defenses: Mapping[str, Values] = field(default_factory=dict)
    reference: str | None = None
    aim: Aim = Aim()
    seed: int = 0
    rungs: tuple[RungName, ...] = ()
    climb: bool = True
    budget: Budget = INTERACTIVE
    repeats: int = 3
    checks: bool = True
    exhibits: bool = False
    looks: bool = False
    learned: Mapping[str, LearnedContext] = field(default_factory=dict)

    def words(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The labels with a caption among them, and the group of each."""
        labels = self.typed()
        if self.aim.kind == "caption":
            labels.append(self.aim.word)
        return grouped_labels(labels)

    def attacker(self) -> Attacker | None:
        """The attack with its parameters."""
        if self.attack is None:
            return None
        attacker: Attacker = entry(self.attack, "attack").build(dict(self.attack_params))
        return attacker

    def typed(self) -> list[str]:
        """The labels one by one, as they were given."""
        given: Any = self.labels
        if not isinstance(given, str) and len(given) == 1 and isinstance(given[0], str):
            given = given[0]  # a list of labels that came as one text
        return split_labels(given) if isinstance(given, str) else list(given)


def check_request(request: Request) -> tuple[str, ...]:
    """Everything that can be refused before a model is loaded; returns the clean labels.

    Raises:
        DemoError: what cannot be used, in one sentence.
    """
    labels, _ = request.words()
    clean_template(request.template)
    if request.reference is not None:
        find_label(labels, request.reference)
    _check_aim(request, labels)
    for id, values in request.defenses.items():
        entry(id, "defense").build(dict(values))
    unknown = set(request.rungs) - set(AWARE)
    if unknown:
        raise InvalidParameter(
            f"Unknown rung {sorted(unknown)[0]!r}.", f"Known: {', '.join(AWARE)}."
        )
    return labels


def _check_aim(request: Request, labels: tuple[str, ...]) -> None:
    aim, attacker = request.aim, request.attacker()
    if aim.kind not in AIMS:
        raise InvalidParameter(f"Unknown goal {aim.kind!r}.", f"Known: {', '.join(AIMS)}.")
    if aim.kind == "label":
        find_label(labels, aim.text)
    if aim.kind == "caption" and not aim.word:
        raise InvalidLabels("There is no text to aim at.", "Write what the model should see.")
    if aim.kind == "picture" and aim.picture is None:
        raise InvalidParameter("There is no picture to aim at.", "Choose a second picture.")
    if attacker is None:
        return
    _ = attacker.ball  # refuses a radius that leaves no room
    if attacker.needs and aim.kind != attacker.needs:
        wanted = "a text of your own" if attacker.needs == "caption" else "a second picture"
        raise InvalidParameter(
            f"{entry(request.attack or '').title} aims at {wanted}.", f"Choose {wanted} as goal."
        )
