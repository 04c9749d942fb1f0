"""How a comparison is made, as one schema with two carriers: a file of this demo, and a link.

What comes in is JSON that anybody may have written; `checked` refuses it like every other input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmdefense_demo.errors import InvalidLabels, InvalidParameter
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.labels import SAME, SEPARATOR, split_labels
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.survey import entry
from vlmdefense_demo.ui.wire import ATTACKERS, read_request
from vlmdefense_demo.ui.words import joined, tell

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Recipe:
    """A comparison's settings, checked.

    Args:
        labels: as typed, "dog = puppy" included.
        params: of the attack, in display units.
        model: a name of the catalog, or None when this demo does not know it.
        truth: the right answer a person had given, or "".
        against: the attack and the defence it knew, in words; "" if it knew none.
        aware: whether defences are to be attacked by one who knows them.
        defenses: id -> parameters in display units; None where nothing is said about them.
    """

    labels: str
    template: str
    attack: str
    params: Mapping[str, Any]
    goal: str
    target: str
    seed: int
    model: str | None
    truth: str
    against: str
    aware: bool = False
    defenses: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def knows(self) -> bool:
        """Whether the attacker knows a defence."""
        return self.aware or bool(self.against)

    def attack_in_words(self) -> str:
        """The attack with its radius."""
        row = entry(self.attack, "attack")
        size = row.build(dict(self.params)).ball.words
        return f"{row.title}, {size}" if size else row.title

    def sentence(self) -> str:
        """What was found in a file, for the status line."""
        how = self.against or self.attack_in_words()
        made = tell("recipe.made", how=how, seed=self.seed)
        return made if self.model else joined(made, tell("recipe.model"))


def checked(about: Mapping[str, Any]) -> Recipe:
    """A recipe as it was written -> one that can be used.

    Raises:
        DemoError: anything in it that cannot.
    """
    labels, goal = about.get("labels"), about.get("goal") or "wrong"
    defenses, attacker = about.get("defenses"), about.get("attacker") or "unaware"
    params, target = about.get("params") or {}, about.get("target") or ""
    request = read_request(
        labels, about.get("template"), attack=about.get("attack") or "", attack_params=params,
        defenses=defenses, goal=goal, target=target, second=goal == "picture", attacker=attacker,
        seed=about.get("seed"), truth=about.get("truth"),
    )  # fmt: skip
    if not 0 <= request.seed <= MAX_SEED:
        raise InvalidParameter(f"seed={request.seed} is outside [0, {MAX_SEED}].")
    model = about.get("model")
    return Recipe(
        labels if isinstance(labels, str) else ", ".join(labels or ()), request.template,
        request.attack or "", params, request.aim.kind, request.aim.text, request.seed,
        model if model in list(MODELS) else None, request.reference or "", _against(about),
        bool(ATTACKERS[attacker]), None if defenses is None else request.defenses,
    )  # fmt: skip


def read_recipe(source: str | bytes) -> Recipe | None:
    """The recipe of an uploaded file; None when it has none.

    Raises:
        DemoError: there is one that cannot be used, or the file is not a picture.
    """
    about = read_upload(source).recipe
    if about is None:
        return None
    return checked({**about, "labels": _labels(about.get("labels"), about.get("groups"))})


def label_list(text: str) -> list[str]:
    """Labels as somebody typed them, one a line or with commas."""
    return [label.strip() for label in split_labels(text) if label.strip()]


def _against(about: Mapping[str, Any]) -> str:
    """The attack of a rung in words, and the defence it went through; "" for a transfer file."""
    if "rung" not in about:
        return ""
    how, defense = about.get("how"), about.get("defense")
    if not isinstance(how, str) or not isinstance(defense, str):
        raise InvalidLabels("it does not say which defence it was made against.")
    return tell("recipe.against", how=how[:120], title=entry(defense, "defense").title)


def _labels(labels: Any, groups: Any) -> list[str]:
    """["dog", "puppy", "cat"], [0, 0, 2] -> ["dog = puppy", "cat"]."""
    plain = isinstance(labels, list) and all(isinstance(w, str) for w in labels)
    if not plain or not isinstance(groups, list) or len(groups) != len(labels):
        raise InvalidLabels("it has no list of labels.")
    if any(map(SEPARATOR.search, labels)):
        raise InvalidLabels(
            "one of its labels has a comma, which the list of this page cannot hold."
        )
    teams: dict[str, list[str]] = {}
    for word, group in zip(labels, groups, strict=True):
        teams.setdefault(str(group), []).append(word)
    return [SAME.join(words) for words in teams.values()]
