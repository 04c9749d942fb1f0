"""The survey tab: every method of the taxonomy as one table to filter and sort.

The table is built here, in Python, so that it works with a full queue and without a model. On a
narrow page its rows become blocks with the column's name before each cell; the roles are written
out because a browser forgets them when the display changes.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo.survey import PARADIGMS, SURVEY, unavailable
from vlmdefense_demo.survey.catalogue import (
    LABELS,
    ORDERS,
    STATUSES,
    Filter,
    Order,
    cost,
    paid,
    paradigm,
)
from vlmdefense_demo.survey.entry import NOTHING, Entry, Published

INTRO = (
    "After Fu & Zhang, “Adversarial Defense in Vision-Language Models: An Overview” (ICICML 2025). "
    "Costs are passes through a tower for one image: f forward, b backward, with N steps, Q queries, "
    f"S searches, D draws, V views and C labels; what they come to is counted for {LABELS} labels.",
    "Numbers of others are quoted with where they were read, and in their authors' names for attacks "
    "and data. They belong to other models, pictures and budgets than this page's, most of them to an "
    "attacker who does not know the defence; none of this page's own numbers stands among them.",
)
GROUPS = {"defenses": "All defences"} | {p: title for p, (title, _) in PARADIGMS.items()}
GROUPS |= {"detectors": "Detectors", "attacks": "Attacks", "all": "Defences, detectors and attacks"}
TRAINING = {"": "any", "yes": "yes, before use", "no": "no"}
ORDER: dict[Order, str] = {
    "survey": "paradigm", "newest": "year, newest first", "oldest": "year, oldest first",
    "name": "name", "cost": "passes, fewest first",
}  # fmt: skip
HEADS = (
    "Method", "Paper, year, licence", "Idea", "Trains", "Paid", "Cost", "Status here",
    "Published by others",
)  # fmt: skip
SORTED: dict[Order, tuple[str, str]] = {
    "newest": ("Paper, year, licence", "descending"),
    "oldest": ("Paper, year, licence", "ascending"),
    "name": ("Method", "ascending"),
    "cost": ("Cost", "ascending"),
}
ADDRESS = re.compile(r"arXiv \d{4}\.\d{5}|github\.com/[\w./-]+")


def survey_tab(model: gr.Dropdown) -> None:
    """Five filters and the table, inside the current tab; `model` is the page's choice of one."""
    years = sorted({row.year for row in SURVEY.values()}, reverse=True)
    options: list[tuple[str, list[tuple[str, Any]], Any]] = [
        ("Show", [(words, key) for key, words in GROUPS.items()], "defenses"),
        ("Status here", [("any", ""), *((s, s) for s in STATUSES)], ""),
        ("Needs training", [(words, key) for key, words in TRAINING.items()], ""),
        ("Published", [("in any year", 0), *((f"{y} or later", y) for y in years)], 0),
        ("Sort by", [(ORDER[o], o) for o in ORDERS], "survey"),
    ]
    words = "".join(f"<p>{escape(some)}</p>" for some in INTRO)
    gr.HTML(f'<div class="survey-intro">{words}</div>')
    with gr.Row(elem_id="survey-filters"):
        filters = [
            gr.Dropdown(some, value=value, label=label, min_width=150, filterable=False,
                        elem_id=f"survey-{label.split()[0].lower()}")
            for label, some, value in options
        ]  # fmt: skip
    shown = gr.HTML(table(Filter(), str(model.value)), elem_id="survey")
    inputs = [*filters, model]
    for control in inputs:
        control.change(
            choose, inputs, shown, queue=False, show_progress="hidden", api_visibility="private"
        )


def choose(group: Any, status: Any, training: Any, since: Any, order: Any, model: Any) -> str:
    """The table as the filters stand; Gradio has refused what is not among their choices."""
    needs = {"yes": True, "no": False}.get(training)
    return table(Filter(group, status, needs, since, order), model)


def table(choice: Filter, model: str) -> str:
    """The rows a filter leaves, as HTML, with the reasons why one is not there for the model."""
    greyed = unavailable(model)
    rows = choice.rows()
    words = f"{len(rows)} of {len(SURVEY)} methods" if rows else "No method fits. Widen a filter."
    count = f'<p class="survey-count" role="status">{words}</p>'
    if not rows:
        return count
    head = "".join(_head(name, choice.order) for name in HEADS)
    body = "".join(_row(row, greyed.get(row.id, "")) for row in rows)
    return (
        f'{count}<table class="survey" role="table" aria-label="Survey of methods">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _head(name: str, order: Order) -> str:
    column, direction = SORTED.get(order, ("", ""))
    way = f' aria-sort="{direction}"' if name == column else ""
    return f'<th role="columnheader" scope="col"{way}>{name}</th>'


def _row(row: Entry, why: str) -> str:
    where = escape(row.venue)
    mark = f'<span class="mark {row.paradigm}" aria-hidden="true"></span>'
    paper = f'<a href="{escape(row.url)}" target="_blank" rel="noopener">{escape(row.paper)}</a>'
    cells = (
        f"{paper}<small>{where} {row.year}</small><small>Licence: {escape(row.licence)}</small>",
        f"{escape(row.idea)} {escape(row.detail)}",
        f'<span class="{"none" if row.trains == NOTHING else "some"}">{escape(row.trains)}</span>',
        escape(paid(row)),
        escape(cost(row)),
        _status(row, why),
        "".join(map(_published, row.published)) or "<small>none quoted</small>",
    )
    named = zip(HEADS[1:], cells, strict=True)
    rest = "".join(
        f'<td role="cell" data-name="{name}"><div>{cell}</div></td>' for name, cell in named
    )
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{mark}<b>{escape(row.title)}</b>'
        f"<small>{escape(paradigm(row))}</small></th>{rest}</tr>"
    )


def _status(row: Entry, why: str) -> str:
    kind = row.status.split()[0]
    note = f"<small>{escape(row.remark)}</small>" if row.remark else ""
    if why:
        note += f"<small>{escape(why)}</small>"
    return f'<span class="survey-status {kind}">{escape(row.status)}</span>{note}'


def _published(number: Published) -> str:
    result = escape(number.result.replace(" %", "\u00a0%"))
    return (
        f"<p><b>{result}</b><small>{escape(number.setting)}. "
        f"Source: {_linked(number.source)}.</small></p>"
    )


def _linked(source: str) -> str:
    """A source, with the paper or the repository it names as a link; HTML."""
    named = ADDRESS.search(source)
    if named is None:
        return escape(source)
    address = named[0].replace("arXiv ", "arxiv.org/abs/")
    link = f'<a href="https://{address}" target="_blank" rel="noopener">{escape(named[0])}</a>'
    return escape(source[: named.start()]) + link + escape(source[named.end() :])
