"""One defence after another: a filter or a robust tower first, then any defence on what it hands over.

A pipeline is itself a defence. Its class is made from those of its two parts and has the parameters of
both, so that pages, endpoints, command lines and contract tests treat it like every other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields as dataclass_fields
from dataclasses import make_dataclass, replace
from functools import cache
from itertools import count
from typing import Any, ClassVar, get_type_hints

import torch

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Adaptive, Cost, DefenseResult, Images, LogitFn, Logits, Note

SLOPES: tuple[Adaptive, ...] = (
    "exact",
    "bpda",
    "eot",
)  # each hides more of the slope than the last
BEFORE = {
    "exact": "The gradient goes on through {}, exactly.",
    "bpda": "The gradient goes past {}, as if it were not there.",
    "eot": "{} is drawn anew every time.",
}


class Chain(Defender):
    """What `chained` makes classes from: the first part's hand-over, then the second part's answer.

    Class attributes:
        parts: the ids and classes of both; a parameter's name is its part's id and its own.
        titles: what people call them.
    """

    parts: ClassVar[tuple[tuple[str, type[Defender]], tuple[str, type[Defender]]]]
    titles: ClassVar[tuple[str, str]]

    @property
    def stages(self) -> tuple[Defender, Defender]:
        """Both parts at the chain's settings."""
        first, second = (
            cls(**{f.name: getattr(self, _name(id, f.name)) for f in _declared(cls)})
            for id, cls in self.parts
        )
        return first, second

    def check_together(self) -> None:
        """Whatever one of the parts refuses."""
        _ = self.stages

    def __call__(self, clf: ZeroShotClassifier, x: Images, *, run: Run) -> DefenseResult:
        """(B, 3, H, W) -> logits of the second defence on the model and picture of the first."""
        first, second = self.stages
        seen = first.picture(x, run.child("first"))
        result = second(first.model(clf), seen, run=run)
        if result.image is None and seen is not x:
            result = replace(result, image=seen.detach())
        return result

    def expected_cost(self, n_labels: int) -> Cost:
        """The second's passes: a filter asks no tower, and a swapped one takes the model's place."""
        return self.stages[1].expected_cost(n_labels)

    def surrogate(self, clf: ZeroShotClassifier, run: Run) -> LogitFn:
        """The second's own recipe, on the model of the first, behind what the first does to pixels."""
        first, second = self.stages
        calls = count()
        answer = second.surrogate(first.model(clf), run)

        def target(x: Images) -> Logits:
            return answer(first.picture(x, run.child(f"first{next(calls)}")))

        return target

    def exhibit(
        self, clf: ZeroShotClassifier, pair: Images, right: int, *, run: Run
    ) -> tuple[Note, ...]:
        """What both show, each under its name: the first on the pair, the second on what it gets."""
        first, second = self.stages
        seen = torch.cat([first.picture(x, run.child("first")) for x in pair.split(1)])
        shown = (
            first.exhibit(clf, pair, right, run=run.child("first")),
            second.exhibit(first.model(clf), seen, right, run=run),
        )
        return tuple(
            replace(note, title=f"{title}: {note.title}")
            for title, notes in zip((f"{self.titles[0]} alone", self.titles[1]), shown, strict=True)
            for note in notes
        )


@cache
def chained(
    parts: tuple[tuple[str, type[Defender]], tuple[str, type[Defender]]], titles: tuple[str, str]
) -> type[Chain]:
    """The class of two defences in a row.

    Args:
        parts: id and class of the first, which must lead, and of the second.
        titles: for the recipe and the exhibits.
    """
    (_, first), (_, second) = parts
    recipe = f"{titles[1]}: {second.recipe} {(first.passage or BEFORE[first.adaptive]).format(titles[0])}"
    return make_dataclass(
        f"{first.__name__}Then{second.__name__}",
        list(_fields(parts)),
        bases=(Chain,),
        namespace={
            "__doc__": f"Update: {titles[0]}, then {titles[1]} on the model and picture it hands over.",
            "parts": parts,
            "titles": titles,
            "adaptive": max(first.adaptive, second.adaptive, key=SLOPES.index),
            "stochastic": first.stochastic or second.stochastic,
            "on_grid": second.on_grid,
            "recipe": recipe,
        },
        frozen=True,
    )


def _fields(parts: tuple[tuple[str, type[Defender]], ...]) -> Iterator[tuple[str, Any, Any]]:
    for id, cls in parts:
        hints = get_type_hints(cls, include_extras=True)
        for f in _declared(cls):
            yield _name(id, f.name), hints[f.name], f.default


def _declared(cls: type[Defender]) -> tuple[Any, ...]:
    return dataclass_fields(cls)  # type: ignore[arg-type] # every method is a dataclass


def _name(id: str, field: str) -> str:
    return f"{id}_{field}"
