"""All cards of a run as one table: what a lecturer reads out, and a screen reader finds by row and column."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo.stories.facts import percent
from vlmdefense_demo.types import Card, Prediction
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.words import Said, Words, language_of, said, spoken

COLUMNS = ("clean", "attacked", "compare.unaware", "compare.aware", "compare.time", "bench.passes")


def tab(earlier: Earlier | None) -> Any:
    """The tab, with the results of the first paint."""
    return gr.HTML(table(earlier), elem_id="compare")


def connect(shown: Any, earlier: Any) -> None:
    """Draw the table anew when other results are shown; `earlier` is the state that holds them."""

    def after(results: Earlier | None, request: gr.Request) -> Any:
        return spoken(table(results), language_of(request))

    earlier.change(after, earlier, shown, api_visibility="private", show_progress="hidden")


def table(earlier: Earlier | None) -> Said:
    """A line a card, in the order of the page."""
    shown = earlier.cards if earlier else ()
    return said(lambda words: _table(shown, words))


def _table(cards: Sequence[Card], words: Words) -> str:
    if not cards:
        return f'<p class="vd-caption">{words("compare.empty")}</p>'
    heads = "".join(f'<th scope="col">{escape(words(key))}</th>' for key in COLUMNS)
    lines = "".join(_line(card, words) for card in cards)
    caption = escape(words("compare.caption", label=cards[0].reference))
    return (
        f'<div class="result"><p class="vd-caption">{caption}</p>'
        f'<div class="bench-scroll" tabindex="0" role="region" aria-label="{words("tab.compare")}">'
        f'<table class="bench"><thead><tr>'
        f'<th scope="col">{escape(words("bench.defence"))}</th>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></div>"
    )


def _line(card: Card, words: Words) -> str:
    head = f'<tr><th scope="row">{escape(html.title(card, words))}</th>'
    if card.error:
        return f'{head}<td colspan="{len(COLUMNS)}">{escape(words.refusals(card.error))}</td></tr>'
    times = "" if card.slowdown is None else f"×\u00a0{card.slowdown:.1f}"
    passes = html.passes(card.cost, words) if card.cost else ""
    cells = (
        _answer(card.clean), _answer(card.attacked), html.unaware_chip(card, words),
        _aware(card, words), times, escape(passes),
    )  # fmt: skip
    return f"{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _answer(answer: Prediction | None) -> str:
    return f"{escape(answer.label)} {escape(percent(answer.prob))}" if answer else ""


def _aware(card: Card, words: Words) -> str:
    """What came of who knows the defence, and up to which rung; the model itself has no defence to know."""
    tried = [rung for rung in card.ladder if rung.name != "transfer"]
    if card.paradigm == "none":
        return ""
    if not tried:
        return escape(words("not_run"))
    last = next((rung for rung in tried if rung.verdict == "fooled"), tried[-1])
    return f"{html.verdict_chip(last.verdict, words)} {escape(words(f'rung.{last.name}'))}"
