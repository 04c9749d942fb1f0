"""Which control triggers what: the page's wiring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
    classroom,
    compare,
    curves,
    detectors,
    handlers,
    live,
    pipeline,
    report,
)
from vlmdefense_demo.ui.controls import Widgets, collect
from vlmdefense_demo.ui.examples import PRESETS, Example, preset_of
from vlmdefense_demo.ui.form import Form, own_prompts
from vlmdefense_demo.ui.handlers import Site
from vlmdefense_demo.ui.recipe import label_list
from vlmdefense_demo.ui.scripts import FRESH, STALE
from vlmdefense_demo.ui.words import language_of, said, spoken
from vlmdefense_demo.ui.worker import COMPUTE

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


def connect(page: Controls, site: Site) -> None:
    """Attach every event of the page; all of them are private to it."""
    outputs = [page.out[name] for name in handlers.OUTPUTS]

    def run(values: Values, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        words = language_of(request)
        before, session = values[page.out["earlier"]], str(request.session_hash)
        for update in handlers.run(site, page.form(values), session, before):
            yield handlers.as_outputs(update, words)

    def stop(request: gr.Request) -> None:
        site.worker.stop(str(request.session_hash))

    def change_model(name: str, request: gr.Request) -> Iterator[Any]:
        for update in handlers.change_model(site, name):
            yield spoken(update, language_of(request))

    def choose(event: gr.SelectData) -> str:
        chosen = page.photos[event.index]
        return site.outbox.put(chosen.path.read_bytes(), chosen.path.name)

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    go = page.out["go"]
    go.click(None, js=FRESH, **hidden)
    go.click(
        run, {*page.inputs(), page.out["earlier"]}, outputs, **COMPUTE, **hidden,
    )  # fmt: skip
    page.out["stop"].click(stop, queue=False, **hidden)
    page.gallery.select(choose, None, page.picture, queue=False, **hidden)
    page.preset.input(
        lambda name: ", ".join(PRESETS[name]), page.preset, page.labels, queue=False, **hidden
    )
    page.labels.blur(
        lambda typed: preset_of(label_list(typed)), page.labels, page.preset, queue=False, **hidden
    )
    page.attack.input(
        partial(suit, page), page.attack, [*page.of_attack(), page.goal], queue=False, **hidden
    )
    page.goal.change(
        lambda goal: gr.update(visible=goal == "picture"), page.goal, page.second, queue=False,
        **hidden,
    )  # fmt: skip
    page.model.input(change_model, page.model, [page.model, page.out["status"]], **hidden)
    _choices(page, hidden)
    curves.connect(page.board, page.out["earlier"], site)
    compare.connect(page.compared, page.out["earlier"])
    report.connect(page.out, site)
    _live(page, site, hidden)
    _teach(page, site, hidden)
    _watch(page, site, hidden)
    own = {widget for (id, _), widget in page.params.items() if entry(id).kind == "defense"}
    for control in page.inputs():
        if control not in own:  # a moved setting of a defence brings its own card again
            control.change(None, js=STALE, **hidden)


def _choices(page: Controls, hidden: Mapping[str, Any]) -> None:
    """What is ticked or paired has a card and settings; what a model has no weights for is not offered."""
    boxes = [page.chosen[paradigm] for paradigm in PARADIGMS]
    shown = [*boxes, *page.greyed.values()]

    def offer(request: gr.Request, *values: Any) -> Any:
        return spoken(regroup(*values), language_of(request))

    def match(request: gr.Request, *values: Any) -> Any:
        return spoken(pipeline.choose(*values), language_of(request))

    for source in (page.model, page.learned):
        source.change(offer, [page.model, page.learned, *boxes], shown, queue=False, **hidden)
    for paradigm, box in page.chosen.items():
        cards = [page.out[id] for id in methods("defense", paradigm)]
        box.change(partial(tick, paradigm), box, cards, queue=False, **hidden)
    pair = [page.pair.first, page.pair.second]
    for source in (page.model, *pair):
        source.change(match, [page.model, *pair], [*pair, page.pair.card], queue=False, **hidden)
    for source in (*pair, *boxes):
        settings = [page.settings[id] for id in methods("defense")]
        source.change(pipeline.shown_settings, [*pair, *boxes], settings, queue=False, **hidden)


def _teach(page: Controls, site: Site, hidden: Mapping[str, Any]) -> None:
    """The classroom: fill in, train, stop, forget."""
    it = page.desk
    out = [it.status, it.curve, it.train, it.stop, it.forget, page.learned]

    def train(values: Values, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        work = partial(
            classroom.homework,
            values[it.method],
            [values[n] for n in it.names],
            [values[f] for f in it.files],
        )
        session = f"{request.session_hash}/classroom"
        model, learned = values[page.model], values[page.learned]
        for update in classroom.learn(site, model, work, learned, session):
            yield spoken(update, language_of(request))

    def forget(request: gr.Request) -> Any:
        return spoken(classroom.forget(), language_of(request))

    def stop(request: gr.Request) -> None:
        site.worker.stop(f"{request.session_hash}/classroom")

    it.fill.click(
        partial(classroom.example_classes, site),
        None,
        [*it.names, *it.files],
        queue=False,
        **hidden,
    )
    it.train.click(train, {*it.inputs(), page.model, page.learned}, out, **COMPUTE, **hidden)
    it.stop.click(stop, queue=False, **hidden)
    # Queued: Gradio tells of a state's change only after such events.
    it.forget.click(forget, None, out, **hidden)


def _watch(page: Controls, site: Site, hidden: Mapping[str, Any]) -> None:
    """The detectors: run on the pictures of the last run, stop."""
    it = page.watch

    def watch(earlier: Any, request: gr.Request) -> Iterator[tuple[Any, Any]]:
        for update in detectors.watch(site, earlier, str(request.session_hash)):
            yield spoken(update, language_of(request))

    def stop(request: gr.Request) -> None:
        site.worker.stop(detectors.session(str(request.session_hash)))

    it.go.click(watch, page.out["earlier"], [it.shown, it.stop], **COMPUTE, **hidden)
    it.stop.click(stop, queue=False, **hidden)


def _live(page: Controls, site: Site, hidden: Mapping[str, Any]) -> None:
    """A setting of a defence, once moved, runs that defence again on the file that is shown."""
    for id, row in methods("defense").items():
        mine = [widget for (owner, _), widget in page.params.items() if owner == id]

        def again(
            values: Values, request: gr.Request, id: str = id, row: Any = row
        ) -> Iterator[tuple[Any, ...]]:
            settings = collect(row, page.params, values)
            for update in live.again(site, values[page.out["earlier"]], id, settings):
                yield spoken(update, language_of(request))

        for widget in mine:
            events: Any = widget
            moved = events.release if isinstance(widget, gr.Slider) else events.input
            moved(
                again, {page.out["earlier"], *mine},
                [page.out[id], page.pair.card, page.out["status"], page.out["earlier"]],
                **COMPUTE, **hidden,
            )  # fmt: skip
