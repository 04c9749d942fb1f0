"""Which control triggers what: the page's wiring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from vlmdefense_demo.survey import PARADIGMS, entry, methods
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
from vlmdefense_demo.ui.controls import collect
from vlmdefense_demo.ui.examples import PRESETS, preset_of
from vlmdefense_demo.ui.page import Controls, Values, regroup, suit, tick
from vlmdefense_demo.ui.recipe import label_list
from vlmdefense_demo.ui.scripts import FRESH, STALE
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.words import language_of, spoken
from vlmdefense_demo.ui.worker import COMPUTE


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
