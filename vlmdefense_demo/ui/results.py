"""What the benchmark measured, as HTML in the page's language; its files and figures are English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vlmdefense_demo.benchmark import tables
from vlmdefense_demo.benchmark.notes import Remark, notes
from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import Rate
from vlmdefense_demo.benchmark.tables import Cell, Line
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.survey import entry
from vlmdefense_demo.ui.words import Said, Words, said

SHOWN = ("curves", "trade")


def grown(rows: Sequence[Row]) -> Said:
    """The table as far as it has come."""
    return said(lambda words: _tables(rows, words))


def finished(rows: Sequence[Row], drawn: Mapping[str, str]) -> Said:
    """The table, what must be known beside it, and its figures.

    Args:
        drawn: name of a figure -> base64 of its PNG.
    """
    remarks = list(notes(rows))

    def body(words: Words) -> str:
        listed = "".join(f"<li>{escape(_remark(some, words))}</li>" for some in remarks)
        pictures = "".join(_figure(name, drawn[name], words) for name in SHOWN if name in drawn)
        return (
            f'{_tables(rows, words)}<ul class="vd-caption">{listed}</ul>'
            f'<div class="bench">{pictures}</div>'
        )

    return said(body)


def _tables(rows: Sequence[Row], words: Words) -> str:
    """Robustness and overhead, then a table a column of what was measured in other worlds."""
    if not rows:
        return ""
    lines = tables.lines(rows)
    columns, far = tables.columns(rows), tables.columns(rows, abroad=True)
    own = _table(
        words("bench.what"),
        _caption(rows, words),
        [*(_column(cell, words) for cell in columns), words("bench.passes"), "ms"],
        {line.title: _cells(line, columns, words) for line in lines},
        words,
    )
    return own + "".join(_abroad(lines, cell, tables.worlds(rows), words) for cell in far)


def _caption(rows: Sequence[Row], words: Words) -> str:
    """What the numbers are of: controls may have moved since, and a table outlives them."""
    attacks = sorted({entry(row["attack"]).title for row in rows if row["attack"]})
    return words(
        "bench.caption",
        n=len({row["picture"] for row in rows if row["world"] == OWN}),
        model=words("names.comma").join(sorted({row["model"] for row in rows})),
        attack=words("names.comma").join(attacks) or "–",
    )


def _abroad(lines: Sequence[Line], cell: Cell, worlds: Sequence[str], words: Words) -> str:
    column = _column(cell, words)
    found = {line.title: line.worlds.get(cell, {}) for line in lines}
    return _table(
        words("bench.elsewhere", column=column),
        words("bench.elsewhere", column=column),
        [words(f"world.{world}") for world in worlds],
        {
            name: [_rate(rates.get(world), words) for world in worlds]
            for name, rates in found.items()
        },
        words,
    )


def _table(
    name: str, caption: str, heads: Sequence[str], body: Mapping[str, Sequence[str]], words: Words
) -> str:
    """A line a defence, in a box that scrolls on a narrow screen."""
    top = "".join(
        f'<th scope="col">{escape(head)}</th>' for head in (words("bench.defence"), *heads)
    )
    lines = "".join(
        f'<tr><th scope="row">{escape(_name(title, words))}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for title, cells in body.items()
    )
    return (
        f'<div class="bench-scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="bench"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cells(line: Line, columns: Sequence[Cell], words: Words) -> list[str]:
    return [
        *(_rate(line.rates.get(cell), words) for cell in columns),
        line.passes.replace("text", words("cost.text")),
        "" if line.ms is None else f"{line.ms:.0f}",
    ]


def _rate(rate: Rate | None, words: Words) -> str:
    return words("not_run") if rate is None else rate.percent()


def _column(cell: Cell, words: Words) -> str:
    if cell.step == "clean":
        return words("clean")
    return words("bench.column", attacker=words(f"rung.{cell.step}"), eps=f"{cell.eps:g}")


def _name(title: str, words: Words) -> str:
    """A defence with its settings; the model itself is a word of the page."""
    return words("undefended") if title == tables.MODEL else title


def _remark(remark: Remark, words: Words) -> str:
    values = {place: _value(place, value, words) for place, value in remark.values.items()}
    return words(f"note.{remark.key}", **values)


def _value(place: str, value: Any, words: Words) -> Any:
    if place == "column":
        return _column(value, words)
    if place == "flag":
        return words(f"flag.{value}")
    if place == "error":
        return words.refusals(value)
    if place == "worlds":
        return words("names.comma").join(words(f"world.{world}") for world in value)
    if isinstance(value, list):
        return words("names.comma").join(_name(name, words) for name in value)
    return _name(value, words) if place in ("name", "best") else value


def _figure(name: str, data: str, words: Words) -> str:
    alt = words("bench.alt", figure=words(f"bench.{name}"))
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
