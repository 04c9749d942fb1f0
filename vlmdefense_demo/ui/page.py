"""The page's controls by role, and what each of them shows when another is chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.spec import fields
from vlmdefense_demo.stories.facts import Facts
from vlmdefense_demo.survey import PARADIGMS, attacker, entry, methods, unavailable, usable
from vlmdefense_demo.types import Paradigm
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import (
    pipeline,
)
from vlmdefense_demo.ui.controls import Widgets, collect
from vlmdefense_demo.ui.examples import Example
from vlmdefense_demo.ui.form import Form, own_prompts
from vlmdefense_demo.ui.words import said

EPS = (1, 2, 4, 8, 16)
Values = Mapping[Any, Any]


@dataclass
class Controls:
    """The components events read and write, by role."""

    out: dict[str, Any] = field(default_factory=dict)
    params: Widgets = field(default_factory=dict)
    chosen: dict[Paradigm, gr.CheckboxGroup] = field(default_factory=dict)
    greyed: dict[Paradigm, gr.HTML] = field(default_factory=dict)
    settings: dict[str, gr.Accordion] = field(default_factory=dict)
    photos: tuple[Example, ...] = ()
    stories: tuple[Facts, ...] = ()
    gallery: Any = None
    picture: Any = None
    preset: Any = None
    labels: Any = None
    template: Any = None
    truth: Any = None
    goal: Any = None
    target: Any = None
    second: Any = None
    knows: Any = None
    model: Any = None
    attack: Any = None
    eps: Any = None
    steps: Any = None
    seed: Any = None
    learned: Any = None
    desk: Any = None
    pair: Any = None
    board: Any = None
    bench: Any = None
    compared: Any = None
    watch: Any = None

    def inputs(self) -> list[Any]:
        """Every control that shapes a run."""
        return [
            self.picture, self.labels, self.template, self.truth, self.goal, self.target,
            self.second, self.knows, self.model, self.attack, self.eps, self.steps, self.seed, *self.chosen.values(),
            *self.params.values(), self.learned, self.pair.first, self.pair.second,
        ]  # fmt: skip

    def of_attack(self) -> list[Any]:
        """The controls that depend on the chosen attack, in the order of `suited`."""
        own = [w for (id, _), w in self.params.items() if entry(id).kind == "attack"]
        return [self.eps, self.steps, *own]

    def suited(self, id: str, values: Mapping[str, Any]) -> list[Any]:
        """Updates for `of_attack`: what attack `id` takes is shown, at these values."""

        def update(mine: bool, name: str) -> Any:
            value = {"value": values[name]} if mine and name in values else {}
            return gr.update(visible=mine, **value)

        row = entry(id, "attack")
        eps = update(row.takes("eps"), "eps")
        if "value" in eps:
            eps["choices"] = sorted({*EPS, eps["value"]})
        return [
            eps,
            update(row.takes("steps"), "steps"),
            *(update(own == id, n) for own, n in self.params if entry(own).kind == "attack"),
        ]

    def form(self, values: Values) -> Form:
        """The controls' values as a form."""
        attack = entry(values[self.attack], "attack")
        params = collect(attack, self.params, values)
        shared = {"eps": values[self.eps], "steps": values[self.steps]}
        params |= {name: v for name, v in shared.items() if attack.takes(name)}
        ticked = {id for group in self.chosen.values() for id in values[group]}
        both = pipeline.chosen(values[self.pair.first], values[self.pair.second])
        return Form(
            picture=values[self.picture],
            labels=values[self.labels] or "",
            template=values[self.template] or "",
            truth=values[self.truth] or "",
            goal=values[self.goal],
            target=values[self.target] or "",
            second=values[self.second],
            knows=bool(values[self.knows]),
            model=values[self.model],
            attack=attack.id,
            attack_params=params,
            defenses={
                id: collect(row, self.params, values)
                for id, row in methods("defense").items()
                if id in ticked
            }
            | ({both: pipeline.settings(both, self.params, values)} if both else {}),
            seed=values[self.seed] or 0,
            learned=values[self.learned],
        )


def choices(model: str, paradigm: Paradigm, own: Collection[str] = ()) -> list[tuple[str, str]]:
    """What can be ticked in a paradigm, for a model with prompts of one's own: (title, id)."""
    there = usable(model, paradigm)
    rows = methods("defense", paradigm)
    return [(row.title, id) for id, row in rows.items() if id in there or id in own]


def tick(paradigm: Paradigm, ticked: Sequence[str]) -> list[Any]:
    """The cards of a paradigm: those of what is ticked are shown."""
    return [gr.update(visible=id in ticked) for id in methods("defense", paradigm)]


def regroup(model: str, learned: Mapping[str, LearnedContext], *ticked: Sequence[str]) -> list[Any]:
    """Tick boxes, then the reasons of what is greyed, of all paradigms, for a model.

    What has just been learned is ticked: it was trained to be used.
    """
    boxes, greyed = [], []
    own = own_prompts(model, learned)
    for paradigm, before in zip(PARADIGMS, ticked, strict=True):
        there = choices(model, paradigm, own)
        boxes.append(
            gr.update(choices=there, value=[id for _, id in there if id in (*before, *own)])
        )
        reasons = unavailable(model, paradigm)
        left = {id: why for id, why in reasons.items() if id not in own}
        greyed.append(said(partial(html.greyed, left)))
    return boxes + greyed


def suit(page: Controls, id: str) -> list[Any]:
    """The controls of the chosen attack, with its own default of steps, and its goal."""
    row = entry(id, "attack")
    steps = {f.name: f.default for f in fields(row.cls) if f.name == "steps"}
    return [*page.suited(id, steps), attacker(row).needs or gr.skip()]
