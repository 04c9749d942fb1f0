"""The survey tab: every method of the taxonomy as one table to filter and sort.

The table is built here, in Python, so that it works with a full queue and without a model. On a
narrow page its rows become blocks with the column's name before each cell; the roles are written
out because a browser forgets them when the display changes. What a row tells of its method is English
in every language.
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
)
from vlmdefense_demo.survey.entry import NOTHING, Entry, Published
from vlmdefense_demo.ui.words import ENGLISH, Words, language_of, said, tell

GROUPS = ("defenses", *PARADIGMS, "detectors", "attacks", "all")
TRAINING = {"": "any", "yes": "yes", "no": "no"}
HEADS = ("method", "paper", "idea", "trains", "paid", "cost", "status", "published")
SORTED: dict[Order, tuple[str, str]] = {
    "newest": ("paper", "descending"),
    "oldest": ("paper", "ascending"),
    "name": ("method", "ascending"),
    "cost": ("cost", "ascending"),
}
ADDRESS = re.compile(r"arXiv \d{4}\.\d{5}|github\.com/[\w./-]+")


def survey_tab(model: gr.Dropdown) -> None:
    """Five filters and the table, inside the current tab; `model` is the page's choice of one."""
    years = sorted({row.year for row in SURVEY.values()}, reverse=True)
    since: list[tuple[str, Any]] = [(tell("survey.year", year=y), y) for y in years]
    options: list[tuple[str, list[tuple[str, Any]], Any]] = [
        ("show", [(_group(key), key) for key in GROUPS], "defenses"),
        ("status", [(tell("survey.any"), ""), *((tell(f"status.{s}"), s) for s in STATUSES)], ""),
        ("needs", [(tell(f"survey.{word}"), key) for key, word in TRAINING.items()], ""),
        ("published", [(tell("survey.any_year"), 0), *since], 0),
        ("sort", [(tell(f"order.{o}"), o) for o in ORDERS], "survey"),
    ]
    gr.HTML(said(_intro))
    with gr.Row(elem_id="survey-filters"):
        filters = [
            gr.Dropdown(some, value=value, label=tell(f"survey.{name}"), min_width=150,
                        filterable=False, elem_id=f"survey-{name}")
            for name, some, value in options
        ]  # fmt: skip
    name = str(model.value)
    shown = gr.HTML(said(lambda words: table(Filter(), name, words)), elem_id="survey")
    inputs = [*filters, model]

    def narrow(request: gr.Request, *values: Any) -> str:
        return table(*choose(*values), language_of(request))

    for control in inputs:
        control.change(
            narrow, inputs, shown, queue=False, show_progress="hidden", api_visibility="private"
        )


def choose(
    group: Any, status: Any, training: Any, since: Any, order: Any, model: Any
) -> tuple[Filter, str]:
    """The filters as they stand; Gradio has refused what is not among their choices."""
    needs = {"yes": True, "no": False}.get(training)
    return Filter(group, status, needs, since, order), model


def table(choice: Filter, model: str, words: Words = ENGLISH) -> str:
    """The rows a filter leaves, as HTML, with the reasons why one is not there for the model."""
    greyed = unavailable(model)
    rows = choice.rows()
    found = words("survey.count", some=len(rows), all=len(SURVEY)) if rows else words("survey.none")
    count = f'<p class="survey-count" role="status">{found}</p>'
    if not rows:
        return count
    head = "".join(_head(name, choice.order, words) for name in HEADS)
    body = "".join(_row(row, greyed.get(row.id, ""), words) for row in rows)
    return (
        f'{count}<table class="survey" role="table" aria-label="{words("survey.table")}">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup"{words.foreign}>{body}</tbody></table>'
    )


def _group(key: str) -> str:
    return tell(key) if key in PARADIGMS else tell(f"survey.{key}")


def _intro(words: Words) -> str:
    after, others = words("survey.after", labels=LABELS), words("survey.others")
    return f'<div class="survey-intro"><p>{escape(after)}</p><p>{escape(others)}</p></div>'


def _head(name: str, order: Order, words: Words) -> str:
    column, direction = SORTED.get(order, ("", ""))
    way = f' aria-sort="{direction}"' if name == column else ""
    return f'<th role="columnheader" scope="col"{way}>{words(f"head.{name}")}</th>'


def _row(row: Entry, why: str, words: Words) -> str:
    where = escape(row.venue)
    licence = words("survey.licence", licence=row.licence)
    mark = f'<span class="mark {row.paradigm}" aria-hidden="true"></span>'
    paper = f'<a href="{escape(row.url)}" target="_blank" rel="noopener">{escape(row.paper)}</a>'
    cells = (
        f"{paper}<small>{where} {row.year}</small><small>{escape(licence)}</small>",
        f"{escape(row.idea)} {escape(row.detail)}",
        f'<span class="{"none" if row.trains == NOTHING else "some"}">{escape(row.trains)}</span>',
        escape(paid(row)),
        escape(cost(row)),
        _status(row, why, words),
        "".join(_published(number, words) for number in row.published)
        or f"<small{words.own}>{words('survey.unquoted')}</small>",
    )
    named = zip(HEADS[1:], cells, strict=True)
    rest = "".join(
        f'<td role="cell" data-name="{words(f"head.{name}")}"><div>{cell}</div></td>'
        for name, cell in named
    )
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{mark}<b>{escape(row.title)}</b>'
        f"<small{words.own}>{_kind(row, words)}</small></th>{rest}</tr>"
    )


def _kind(row: Entry, words: Words) -> str:
    return words(f"survey.{row.kind}" if row.paradigm == "none" else row.paradigm)


def _status(row: Entry, why: str, words: Words) -> str:
    kind = row.status.split()[0]
    note = f"<small>{escape(row.remark)}</small>" if row.remark else ""
    if why:
        note += f"<small{words.own}>{escape(words.refusals(why))}</small>"
    status = words(f"status.{row.status}")
    return f'<span class="survey-status {kind}"{words.own}>{status}</span>{note}'


def _published(number: Published, words: Words) -> str:
    result = escape(number.result.replace(" %", "\u00a0%"))
    return (
        f"<p><b>{result}</b><small>{escape(number.setting)}. "
        f"{words('survey.source', source=_linked(number.source))}</small></p>"
    )


def _linked(source: str) -> str:
    """A source, with the paper or the repository it names as a link; HTML."""
    named = ADDRESS.search(source)
    if named is None:
        return escape(source)
    address = named[0].replace("arXiv ", "arxiv.org/abs/")
    link = f'<a href="https://{address}" target="_blank" rel="noopener">{escape(named[0])}</a>'
    return escape(source[: named.start()]) + link + escape(source[named.end() :])
