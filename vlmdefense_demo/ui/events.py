"""Which control triggers what: the page's wiring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from vlmdefense_demo.spec import fields
from vlmdefense_demo.survey import attacker, entry, methods
from vlmdefense_demo.types import Paradigm
from vlmdefense_demo.ui import handlers
from vlmdefense_demo.ui.controls import Widgets, collect
from vlmdefense_demo.ui.examples import PRESETS, Example
from vlmdefense_demo.ui.handlers import Form, Site

STALE = "() => document.body.classList.add('stale')"
FRESH = "() => document.body.classList.remove('stale')"
Values = Mapping[Any, Any]


@dataclass
class Controls:
    """The components events read and write, by role."""

    out: dict[str, Any] = field(default_factory=dict)
    params: Widgets = field(default_factory=dict)
    chosen: dict[Paradigm, gr.CheckboxGroup] = field(default_factory=dict)
    photos: tuple[Example, ...] = ()
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

    def inputs(self) -> list[Any]:
        """Every control that shapes a run."""
        return [
            self.picture, self.labels, self.template, self.truth, self.goal, self.target,
            self.second, self.knows, self.model, self.attack, self.eps, self.steps, self.seed, *self.chosen.values(),
            *self.params.values(),
        ]  # fmt: skip

    def form(self, values: Values) -> Form:
        """The controls' values as a form."""
        attack = entry(values[self.attack], "attack")
        params = collect(attack, self.params, values)
        shared = {"eps": values[self.eps], "steps": values[self.steps]}
        params |= {name: v for name, v in shared.items() if attack.takes(name)}
        ticked = {id for group in self.chosen.values() for id in values[group]}
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
            },
            seed=values[self.seed] or 0,
        )


def connect(page: Controls, site: Site) -> None:
    """Attach every event of the page; all of them are private to it."""
    outputs = [page.out[name] for name in handlers.OUTPUTS]

    def run(values: Values, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        for update in handlers.run(site, page.form(values), str(request.session_hash)):
            yield handlers.as_outputs(update)

    def stop(request: gr.Request) -> None:
        site.worker.stop(str(request.session_hash))

    def choose(event: gr.SelectData) -> str:
        chosen = page.photos[event.index]
        return site.outbox.put(chosen.path.read_bytes(), chosen.path.name)

    def suit(id: str) -> list[Any]:
        """What the chosen attack takes is shown, the rest is not; its own default of steps."""
        row = entry(id, "attack")
        steps = next((f for f in fields(row.cls) if f.name == "steps"), None)
        needs = attacker(row).needs
        return [
            gr.update(visible=row.takes("eps")),
            gr.update(visible=True, value=steps.default) if steps else gr.update(visible=False),
            needs or gr.skip(),
            *(gr.update(visible=own == id) for own, _ in attack_params),
        ]

    attack_params = [key for key in page.params if entry(key[0]).kind == "attack"]
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    go = page.out["go"]
    go.click(None, js=FRESH, **hidden)
    go.click(
        run, set(page.inputs()), outputs, concurrency_id="compute", concurrency_limit=4, **hidden
    )
    page.out["stop"].click(stop, queue=False, **hidden)
    page.gallery.select(choose, None, page.picture, queue=False, **hidden)
    page.preset.input(
        lambda name: ", ".join(PRESETS[name]), page.preset, page.labels, queue=False, **hidden
    )
    page.attack.input(
        suit,
        page.attack,
        [page.eps, page.steps, page.goal, *(page.params[key] for key in attack_params)],
        queue=False,
        **hidden,
    )
    page.goal.change(
        lambda goal: gr.update(visible=goal == "picture"), page.goal, page.second, queue=False,
        **hidden,
    )  # fmt: skip
    page.model.input(
        partial(handlers.change_model, site), page.model, [page.model, page.out["status"]], **hidden
    )
    for control in page.inputs():
        control.change(None, js=STALE, **hidden)
