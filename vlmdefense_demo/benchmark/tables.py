"""Rows as a table: Markdown for a page, CSV for a spreadsheet, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from vlmdefense_demo.benchmark.plan import UNDEFENDED
from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import Rate, rate
from vlmdefense_demo.benchmark.tasks import OWN
from vlmdefense_demo.benchmark.worlds import origin
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.request import AWARE
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Paradigm

MODEL = "Undefended"  # the line of the model itself
TITLES = {
    "transfer": "unaware",
    "white_box": "white box",
    "adaptive": "adaptive",
    "black_box": "black box",
}


@dataclass(frozen=True)
class Cell:
    """A column of the table."""

    step: str
    eps: float

    @property
    def title(self) -> str:
        """ "unaware, 4/255" """
        return "clean" if self.step == "clean" else f"{TITLES[self.step]}, {self.eps:g}/255"


@dataclass(frozen=True)
class Line:
    """A defence with its settings: what it answers rightly, and what an answer costs.

    Args:
        name: of the defence, without its settings.
        paradigm: of the defence, "none" for the model itself.
        rates: by column; missing where nothing was measured.
        worlds: by column and world, the source itself first.
        elsewhere: by column, all worlds but the source itself; several pictures of one are one cluster.
        passes: of one answer, in words.
        ms: the median time of a single picture, None if it was not measured.
    """

    title: str
    name: str
    paradigm: Paradigm
    rates: dict[Cell, Rate]
    worlds: dict[Cell, dict[str, Rate]]
    elsewhere: dict[Cell, Rate]
    passes: str
    ms: float | None


def check_alike(rows: Sequence[Row]) -> None:
    """One table, one model, one attack and one budget, and one row for each question.

    Raises:
        InvalidParameter: a column would put together what was measured in different ways.
    """
    asked = Counter(
        (r["world"], r["picture"], r["seed"], title(r), r["step"], r["eps"]) for r in rows
    )
    twice = [key for key, n in asked.items() if n > 1]
    if twice:
        _, picture, _, name, *_ = twice[0]
        raise InvalidParameter(
            f"{len(twice)} questions have several answers, for instance {name} on {picture}: the rows "
            "are of different label lists, weights or companies.",
            "Keep one file for each, and print their tables one by one.",
        )
    found: dict[tuple[str, float], set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        found[row["step"], row["eps"]].add((row["model"], row["conditions"]))
    if any(len(ways) > 1 for ways in found.values()):
        raise InvalidParameter(
            "These rows are of different models, attacks or budgets.",
            "Keep one file for each, and print their tables one by one.",
        )


def title(row: Row) -> str:
    """ "R-TPT · views 8" """
    return " · ".join([_name(row), *(f"{k} {v}" for k, v in sorted(row["values"].items()))])


def _name(row: Row) -> str:
    return MODEL if row["defense"] == UNDEFENDED else entry(row["defense"]).title


def columns(rows: Sequence[Row], abroad: bool = False) -> list[Cell]:
    """Clean first, then by radius, from the attacker who knows nothing upwards.

    Args:
        abroad: what was measured in other worlds, instead of at the source itself.
    """
    order = ["clean", "transfer", *AWARE]
    found = {
        Cell(r["step"], r["eps"])
        for r in rows
        if r["step"] in order and (r["world"] != OWN) == abroad
    }
    return sorted(found, key=lambda cell: (cell.eps, order.index(cell.step)))


def worlds(rows: Sequence[Row]) -> list[str]:
    """The source itself and where else was asked, in the order of the rows."""
    return list(dict.fromkeys([OWN, *(row["world"] for row in rows)]))


def lines(rows: Sequence[Row]) -> list[Line]:
    """One a setting, in the order of the rows."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[title(row)].append(row)
    return [_line(name, group) for name, group in groups.items()]


def _line(name: str, rows: Sequence[Row]) -> Line:
    good = [row for row in rows if not row["error"]]
    home = [row for row in good if row["world"] == OWN]
    rates = {cell: _rate(_of(home, cell)) for cell in columns(home)}
    by_world: dict[Cell, dict[str, Rate]] = {}
    elsewhere = {}
    for cell in columns(good, abroad=True):
        mine = _of(good, cell)
        by_world[cell] = {
            world: _rate([row for row in mine if row["world"] == world]) for world in worlds(mine)
            if world != OWN or cell in rates
        }  # fmt: skip
        elsewhere[cell] = _rate([row for row in mine if row["world"] != OWN])
    alone = [r for r in home if r["step"] == "latency"]
    answers = alone or [r for r in home if r["step"] == "clean"]
    ms = 1000 * median(r["s"] for r in alone) if alone else None
    paradigm = _paradigm(rows[0])
    return Line(name, _name(rows[0]), paradigm, rates, by_world, elsewhere, _passes(answers), ms)


def _of(rows: Sequence[Row], cell: Cell) -> list[Row]:
    return [row for row in rows if (row["step"], row["eps"]) == (cell.step, cell.eps)]


def _rate(rows: Sequence[Row]) -> Rate:
    return rate((origin(row["picture"], row["world"]), row["standing"]) for row in rows)


def _paradigm(row: Row) -> Paradigm:
    return "none" if row["defense"] == UNDEFENDED else entry(row["defense"]).paradigm


def _passes(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    f, b, tf, tb = (round(fmean(row[name] for row in rows), 1) for name in ("f", "b", "tf", "tb"))
    images = f"{f:g} f" + (f" + {b:g} b" if b else "")
    text = f" · text {tf:g} f + {tb:g} b" if tf or tb else ""
    return images + text


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The table's head and its lines, as text: robustness, then generalisation, then overhead.

    Of the other worlds only clean pictures and the hardest attacker there; `abroad` has them all.
    """
    wanted, far = columns(rows), columns(rows, abroad=True)
    far = far[:1] + far[1:][-1:]
    head = ["defence", *(c.title for c in wanted), *(f"elsewhere, {c.title}" for c in far)]
    body = []
    for line in lines(rows):
        rates = [_percent(line.rates.get(c)) for c in wanted]
        rates += [_percent(line.elsewhere.get(c)) for c in far]
        body.append([line.title, *rates, line.passes, "" if line.ms is None else f"{line.ms:.0f}"])
    return [*head, "passes", "ms"], body


def abroad(rows: Sequence[Row], cell: Cell) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table of one column of `cells`, world by world."""
    found = [(line.title, line.worlds.get(cell, {})) for line in lines(rows)]
    names = [world for world in worlds(rows) if any(world in rates for _, rates in found)]
    body = [[title, *(_percent(rates.get(world)) for world in names)] for title, rates in found]
    return [cell.title, *names], body


def _percent(found: Rate | None) -> str:
    return "not run" if found is None else found.percent()


def markdown(rows: Sequence[Row]) -> str:
    """A table, per cent of all pictures answered rightly, with 95 % intervals; one more for each column
    that was measured in other worlds, too."""
    tables = [cells(rows), *(abroad(rows, cell) for cell in columns(rows, abroad=True))]
    return "\n".join(as_markdown(*table) for table in tables)


def as_markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Head and lines as a Markdown table."""
    text = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in text)


def latex(rows: Sequence[Row]) -> str:
    """The same as a tabular."""
    head, body = cells(rows)
    text = [" & ".join(_escaped(line)) + r" \\" for line in (head, *body)]
    text.insert(1, r"\midrule")
    inner = "\n".join([r"\toprule", *text, r"\bottomrule"])
    return f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n{inner}\n\\end{{tabular}}\n"


def _escaped(cells: Sequence[str]) -> list[str]:
    signs = str.maketrans({c: "\\" + c for c in "&%$#_{}"})
    return [cell.translate(signs) for cell in cells]


def csv_text(rows: Sequence[Row]) -> str:
    """A line a rate and a world, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["defence", "step", "eps", "world", "rate", "low", "high", "n", "passes", "ms"]
    )  # fmt: skip
    for line in lines(rows):
        found = [(cell, OWN, rate) for cell, rate in line.rates.items()]
        found += [
            (cell, world, rate)
            for cell, by_world in line.worlds.items()
            for world, rate in by_world.items()
            if world != OWN
        ]
        for cell, world, r in found:
            writer.writerow(
                [
                    line.title,
                    cell.step,
                    cell.eps,
                    world,
                    r.value,
                    r.low,
                    r.high,
                    r.n,
                    line.passes,
                    line.ms,
                ]
            )
    return out.getvalue()
