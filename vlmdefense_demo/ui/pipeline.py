"""Two drop-downs: one defence, and another on what it hands over. Their settings stay where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlmdefense_demo.survey import THEN, entry, followers, leaders, methods
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui.controls import Widgets, collect
from vlmdefense_demo.ui.words import ENGLISH, Words, said, tell

SLOT = "pipeline"


@dataclass
class Pair:
    """The components of the pipeline's panel.

    Args:
        first: ids of defences that hand something on; "" is none.
        second: ids of what can follow.
        card: where the pipeline's card is shown.
    """

    first: Any = None
    second: Any = None
    card: Any = None


def panel(model: str) -> Pair:
    """The panel below the three columns, with nothing chosen."""
    it = Pair()
    with gr.Row(equal_height=False, elem_id="pipeline"):
        with gr.Column(scale=1, min_width=330, elem_classes="vd-panel"):
            gr.HTML(said(_head))
            it.first = gr.Dropdown(
                _leading(model), value="", label=tell("pair.first"), elem_id="pipe-first"
            )
            it.second = gr.Dropdown(
                [], value=None, label=tell("pair.then"), elem_id="pipe-second", interactive=False
            )
        with gr.Column(scale=2, min_width=330):
            it.card = gr.HTML(visible=False, elem_id=f"card-{SLOT}")
    return it


def chosen(first: str | None, second: str | None) -> str:
    """ "fare+ttc", or "" while there are not two."""
    return f"{first}{THEN}{second}" if first and second else ""


def choose(model: str, first: str, second: str | None) -> tuple[Any, Any, Any]:
    """Both drop-downs and the card, for what is chosen: only what can follow is offered."""
    first = first if first in leaders(model) else ""
    there = followers(model, first) if first else ()
    second = second if second in there else None
    id = chosen(first, second)
    return (
        gr.update(choices=_leading(model), value=first),
        gr.update(choices=_titled(there), value=second, interactive=bool(first)),
        gr.update(
            value=said(lambda words: html.placeholder(id, "ready", words=words)) if id else "",
            visible=bool(id),
        ),
    )


def shown_settings(first: str, second: str | None, *ticked: Sequence[str]) -> list[Any]:
    """For every defence, whether its settings are shown: it is ticked, or a part of the pipeline."""
    parts = {first, second, *(id for group in ticked for id in group)}
    rows = methods("defense")
    return [gr.update(visible=id in parts and row.adjustable) for id, row in rows.items()]


def settings(id: str, params: Widgets, values: Mapping[Any, Any]) -> dict[str, Any]:
    """The parameters of a pipeline as the widgets of its parts stand, in display units."""
    return {
        f"{row.id}_{name}": value
        for row in entry(id).rows
        for name, value in collect(row, params, values).items()
    }


def slot(method: str) -> str:
    """The output that shows a method's card."""
    return SLOT if THEN in method else method


def _leading(model: str) -> list[tuple[str, str]]:
    return [(tell("pair.none"), ""), *_titled(leaders(model))]


def _head(words: Words = ENGLISH) -> str:
    return f'<p class="kicker">{words("pair")}</p><p class="vd-caption">{words("pair.note")}</p>'


def _titled(ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(entry(id).title, id) for id in ids]
