"""The table as pictures: accuracy over the radius, what robustness costs in clean answers and in time.

A paradigm is a colour and a marker, as on the page; settings of one paradigm differ by their dashes.
Bands and bars are 95 % intervals.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import Rate
from vlmdefense_demo.benchmark.tables import TITLES, Cell, Line, columns, lines
from vlmdefense_demo.figures import DASHES, LIGHT, MARKERS
from vlmdefense_demo.types import Paradigm

WIDTH, ROW, DPI = 7.2, 0.26, 150  # inches
BAR = 0.36


def write(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Write each figure the rows have something for as a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    found = lines(rows)
    for name, draw in FIGURES.items():
        figure = draw(found, columns(rows))
        if figure is not None:
            FigureCanvasAgg(figure)
            figure.savefig(folder / f"{name}.png", dpi=DPI)
            yield folder / f"{name}.png"


def curves(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Accuracy over the radius with its band; a panel an attacker, one line a setting."""
    steps = list(dict.fromkeys(cell.step for cell in cells if cell.eps))
    clean = Cell("clean", 0.0)
    if not steps:
        return None
    figure = Figure((WIDTH, 3.2 + ROW * math.ceil(len(found) / 2)), layout="constrained")
    panels = figure.subplots(1, len(steps), sharey=True, squeeze=False)[0]
    for axes, step in zip(panels, steps, strict=True):
        wanted = [cell for cell in cells if cell == clean or cell.step == step]
        for line, style in zip(found, _styles(found), strict=True):
            shown = [(cell.eps, line.rates[cell]) for cell in wanted if cell in line.rates]
            _curve(axes, shown, line, style)
        axes.set(title=f"attacker: {TITLES[step]}", xlabel="radius, levels of 255", ylim=(0, 1.02))
        axes.set_xticks([cell.eps for cell in wanted])
        _tidy(axes)
    panels[0].set_ylabel("answered rightly")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False, handlelength=3.5)  # fmt: skip
    return figure


def trade(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Clean accuracy against what the hardest attacker leaves at the largest radius."""
    clean, attacked = Cell("clean", 0.0), _hardest(cells)
    shown = [line for line in found if clean in line.rates and attacked in line.rates]
    if attacked is None or not shown:
        return None
    figure = Figure((WIDTH, 4.2 + ROW * len(shown) / 3), layout="constrained")
    axes = figure.add_subplot()
    places: dict[tuple[float, float], list[str]] = defaultdict(list)
    for number, line in enumerate(shown, 1):
        x, y = line.rates[clean], line.rates[attacked]
        colour, marker = _look(line)
        axes.errorbar(
            x.value, y.value, xerr=_bar(x), yerr=_bar(y), fmt=marker, color=colour, markersize=7,
            elinewidth=0.8, alpha=0.9, label=f"{number}  {line.title}",
        )  # fmt: skip
        places[x.value, y.value].append(str(number))
    for place, numbers in places.items():
        axes.annotate(", ".join(numbers), place, (6, 5), textcoords="offset points")
    axes.set(xlabel="answered rightly, clean", ylabel=f"answered rightly, {attacked.title}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def latency(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Median time of a single picture."""
    shown = [(line, line.ms) for line in found if line.ms]
    return _bars(shown, "ms a picture, logarithmic") if shown else None


def price(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Time for one right answer against the hardest attacker at the largest radius.

    The time of a picture over the share answered rightly; without right answers there is no price.
    """
    attacked = _hardest(cells)
    shown = [
        (line, line.ms / line.rates[attacked].value)
        for line in found
        if attacked is not None
        and line.ms
        and attacked in line.rates
        and line.rates[attacked].value
    ]
    if attacked is None or not shown:
        return None
    return _bars(shown, f"ms for one right answer, {attacked.title}, logarithmic")


FIGURES: dict[str, Callable[[Sequence[Line], Sequence[Cell]], Figure | None]] = {
    "curves": curves, "trade": trade, "latency": latency, "price": price,
}  # fmt: skip


def _hardest(cells: Sequence[Cell]) -> Cell | None:
    """The last attacker at the largest radius; each stands on what those before it broke."""
    return cells[-1] if cells and cells[-1].eps else None


def _curve(axes: Axes, shown: Sequence[tuple[float, Rate]], line: Line, style: object) -> None:
    colour, marker = _look(line)
    eps, rates = [at for at, _ in shown], [rate for _, rate in shown]
    axes.plot(
        eps, [r.value for r in rates], label=line.title, color=colour, marker=marker, markersize=5,
        linewidth=1.6, linestyle=style,
    )  # fmt: skip
    axes.fill_between(eps, [r.low for r in rates], [r.high for r in rates], color=colour, alpha=0.1)


def _bars(shown: Sequence[tuple[Line, float]], label: str) -> Figure:
    """Horizontal bars on a logarithmic axis, each with its number."""
    figure = Figure((WIDTH, 0.9 + BAR * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    values = [value for _, value in shown]
    bars = axes.barh(
        [line.title for line, _ in shown], values, color=[_look(line)[0] for line, _ in shown]
    )
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3)
    axes.set(xscale="log", xlabel=label, xlim=(min(values) / 2, max(values) * 2))
    axes.invert_yaxis()
    _tidy(axes)
    return figure


def _look(line: Line) -> tuple[str, str]:
    return LIGHT.colours[line.paradigm], MARKERS[line.paradigm]


def _styles(found: Sequence[Line]) -> list[object]:
    numbers: dict[Paradigm, count[int]] = {line.paradigm: count() for line in found}
    return [DASHES[next(numbers[line.paradigm]) % len(DASHES)] for line in found]


def _bar(rate: Rate) -> list[list[float]]:
    """Below and above; at 0 and 1 rounding may leave the value outside its interval."""
    return [[max(0.0, rate.value - rate.low)], [max(0.0, rate.high - rate.value)]]


def _tidy(axes: Axes) -> None:
    axes.grid(color=LIGHT.line, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
