"""Ready stories on the page, and the lecture over it: shipped results, shown without computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vlmdefense_demo.images import from_png
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.stories.facts import Facts
from vlmdefense_demo.stories.recipes import MODEL
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import compare, curves, handlers, pictures, telling
from vlmdefense_demo.ui.earlier import Earlier, leave
from vlmdefense_demo.ui.handlers import Update
from vlmdefense_demo.ui.lecture import lecture, shipped
from vlmdefense_demo.ui.page import Controls
from vlmdefense_demo.ui.pipeline import SLOT
from vlmdefense_demo.ui.recipe import checked
from vlmdefense_demo.ui.scripts import SETTLE
from vlmdefense_demo.ui.sharing import Learned, restored, settings
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.story import told
from vlmdefense_demo.ui.words import language_of, spoken, tell

LECTURE = "() => window.lecture && window.lecture()"
NAMES = tuple(name for name in handlers.OUTPUTS if name != SLOT)  # its card is among `restored`


def lecture_button(page: Controls) -> None:
    """Beside the title; the key L does the same."""
    page.out["lecture"] = gr.Button(
        tell("lecture"),
        size="sm",
        scale=0,
        min_width=100,
        elem_id="open-lecture",
        elem_classes="tool",
    )


def shelf(page: Controls) -> None:
    """The list of stories; the page opens with the first."""
    page.stories = shipped()
    choices = [(tell(f"lesson.{f.recipe.slug}"), f.recipe.slug) for f in page.stories]
    page.out["story"] = gr.Radio(
        choices, value=choices[0][1] if choices else None, label=tell("stories"),
        container=False, visible=bool(choices), elem_id="stories",
    )  # fmt: skip


def connect(demo: gr.Blocks, page: Controls, site: Site) -> None:
    """Choosing a story shows it at once; the slides come after the first paint."""
    hidden: dict[str, Any] = {
        "queue": False, "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip
    slides, story = gr.HTML(elem_id="lecture", padding=False), page.out["story"]
    markup = lecture(page.stories)

    def dialog(request: gr.Request) -> str:
        return language_of(request).say(markup)

    demo.load(dialog, None, slides, **hidden)
    page.out["lecture"].click(None, js=LECTURE, **hidden)
    # Gradio tells of a state's change only after events that were queued.
    of_state = [page.compared, page.board.margin, page.board.price, page.board.radius]
    outputs = [*(page.out[name] for name in NAMES), *restored(page), page.picture, *of_state]

    def choose(
        slug: str, before: Earlier | None, learned: Learned, request: gr.Request
    ) -> Sequence[Any]:
        leave(before)
        facts = next(f for f in page.stories if f.recipe.slug == slug)
        words, results = language_of(request), told(facts.story)
        drawn = [compare.table(results), *curves.figures_of(results)]
        return [spoken(value, words) for value in (*show(page, site, facts, learned), *drawn)]

    story.input(None, js=SETTLE, **hidden)
    story.input(choose, [story, page.out["earlier"], page.learned], outputs, **hidden)


def show(page: Controls, site: Site, facts: Facts, learned: Learned | None = None) -> list[Any]:
    """All outputs as after a run of the story's recipe, the controls that recipe, its picture."""
    update = _results(site, facts)
    recipe = checked(
        {
            "labels": list(facts.recipe.labels), "template": DEFAULT_TEMPLATE, "model": MODEL,
            "attack": facts.recipe.attack, "params": facts.report.params, "goal": "wrong",
            "seed": facts.recipe.seed, "attacker": "aware" if facts.recipe.knows else "unaware",
            "defenses": {card.method: card.params for card in facts.story.cards[1:]},
        }
    )  # fmt: skip
    shown = [update.get(name, gr.skip()) for name in NAMES]
    return [*shown, *settings(page, recipe, learned), update["pair"][0]]


def _results(site: Site, facts: Facts) -> Update:
    clean, plain = from_png(facts.story.clean), facts.plain
    order = html.class_order(plain)
    return (
        {id: telling.placeholder(id, "ready") for id in handlers.DEFENSES}
        | pictures.made(site.outbox, clean, facts.report)
        | {"look_caption": ""}
        | pictures.looked(clean, facts.report, plain.notes)
        | {card.method: telling.defence(card, order) for card in facts.story.cards[1:]}
        | {
            "undefended": telling.undefended(plain, order),
            "verdict": telling.verdict(plain, facts.story.about["badge"]),
            "earlier": told(facts.story),
            "detect": gr.Button(interactive=True),
            "readings": telling.unread(),
            "status": telling.status(
                tell("status.story", title=tell(f"lesson.{facts.recipe.slug}"))
            ),
        }
    )
