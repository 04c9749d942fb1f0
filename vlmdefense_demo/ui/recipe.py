"""A file of this demo says how it was made; uploading it sets the controls as they were then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.images import read_upload
from vlmdefense_demo.labels import SAME
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.survey import entry
from vlmdefense_demo.ui.wire import read_request


@dataclass(frozen=True)
class Recipe:
    """How a file was made, checked like every other input.

    Args:
        labels: as typed, "dog = puppy" included.
        params: of the attack, in display units.
        model: a name of the catalog, or None when this demo does not know it.
        truth: the right answer a person had given, or "".
        against: the attack and the defence it knew, in words; "" if it knew none.
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

    @property
    def knows(self) -> bool:
        """Whether the attacker knew a defence."""
        return bool(self.against)

    def sentence(self) -> str:
        """What was found, for the status line."""
        size = f", ε {self.params['eps']:g}" if "eps" in self.params else ""
        where = "" if self.model else " Its model is not known here."
        how = self.against or f"{entry(self.attack).title}{size}"
        return (
            f"Made by this demo: {how}, seed {self.seed}. "
            f"Labels and settings are set as they were.{where}"
        )


def read_recipe(path: str) -> Recipe | None:
    """The recipe of an uploaded file; None when it has none.

    Raises:
        DemoError: there is one that cannot be used, or the file is not a picture.
    """
    about = read_upload(path).recipe
    if about is None:
        return None
    labels, goal = _labels(about.get("labels"), about.get("groups")), about.get("goal") or "wrong"
    id, params, target = about.get("attack"), about.get("params") or {}, about.get("target") or ""
    request = read_request(
        labels, about.get("template"), attack=id or "", attack_params=params, goal=goal,
        target=target, second=goal == "picture", seed=about.get("seed"), truth=about.get("truth"),
    )  # fmt: skip
    model = about.get("model")
    return Recipe(
        ", ".join(labels), request.template, request.attack or "", params, request.aim.kind,
        request.aim.text, request.seed, model if model in list(MODELS) else None,
        request.reference or "", _against(about),
    )  # fmt: skip


def _against(about: Mapping[str, Any]) -> str:
    """The attack of a rung in words, and the defence it went through; "" for a transfer file."""
    if "rung" not in about:
        return ""
    how, defense = about.get("how"), about.get("defense")
    if not isinstance(how, str) or not isinstance(defense, str):
        raise InvalidLabels("it does not say which defence it was made against.")
    return f"{how[:120]}, against {entry(defense, 'defense').title}"


def _labels(labels: Any, groups: Any) -> list[str]:
    """["dog", "puppy", "cat"], [0, 0, 2] -> ["dog = puppy", "cat"]."""
    plain = isinstance(labels, list) and all(isinstance(w, str) for w in labels)
    if not plain or not isinstance(groups, list) or len(groups) != len(labels):
        raise InvalidLabels("it has no list of labels.")
    if any("," in word for word in labels):
        raise InvalidLabels(
            "one of its labels has a comma, which the list of this page cannot hold."
        )
    teams: dict[str, list[str]] = {}
    for word, group in zip(labels, groups, strict=True):
        teams.setdefault(str(group), []).append(word)
    return [SAME.join(words) for words in teams.values()]
