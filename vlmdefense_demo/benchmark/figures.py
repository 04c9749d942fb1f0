"""The table as pictures: accuracy over the radius, what robustness costs in clean answers and in time.

A paradigm is a colour and a marker, as on the page; settings of one paradigm differ by their dashes.
Bands and bars are 95 % intervals. What nobody attacked is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import Rate
from vlmdefense_demo.benchmark.tables import MODEL, TITLES, Cell, Line, columns, lines
from vlmdefense_demo.figures import DASHES, LIGHT, MARKERS
from vlmdefense_demo.types import Paradigm

WIDTH, ROW, DPI = 7.2, 0.26, 150  # inches
BAR, PANEL = 0.36, 1.55
CROWD = 8  # lines of one panel
ACROSS, ABREAST = 4, 5  # panels and numbers beside each other
NEAR = (0.12, 0.04)  # of the dots' extent, across and up: those closer share a label
GREY = "0.55"
RADIUS = "radius, levels of 255"
CLEAN = Cell("clean", 0.0)


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
    """Accuracy over the radius: few settings by attacker, a crowd of them by defence."""
    steps = list(dict.fromkeys(cell.step for cell in cells if cell.eps))
    if not steps:
        return None
    return (_by_attacker if len(found) <= CROWD else _by_defence)(found, cells, steps)


def _by_attacker(found: Sequence[Line], cells: Sequence[Cell], steps: Sequence[str]) -> Figure:
    """A panel an attacker, one line a setting, with its band."""
    figure = Figure((WIDTH, 3.2 + ROW * math.ceil(len(found) / 2)), layout="constrained")
    panels = figure.subplots(1, len(steps), sharey=True, squeeze=False)[0]
    for axes, step in zip(panels, steps, strict=True):
        for line, style in zip(found, _styles(found), strict=True):
            _curve(axes, _reached(line, cells, step), line, style)
        axes.set(title=f"attacker: {TITLES[step]}")
        _radii(axes, cells)
    panels[0].set_ylabel("answered rightly")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False, handlelength=3.5)  # fmt: skip
    return figure


def _by_defence(found: Sequence[Line], cells: Sequence[Cell], steps: Sequence[str]) -> Figure:
    """A panel a defence, one dash an attacker, settings from faint to strong in the table's order.

    The model itself, under the first attacker, is the grey line in all of them.
    """
    plain = [line for line in found if line.paradigm == "none"]
    panels: dict[str, list[Line]] = {line.name: [] for line in found if line not in plain}
    for line in found:
        if line.name in panels:
            panels[line.name].append(line)
    rows = math.ceil(len(panels) / ACROSS)
    figure = Figure((WIDTH, 0.8 + PANEL * rows), layout="constrained")
    grid = list(figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, settings) in zip(grid, panels.items(), strict=False):
        for line in plain:
            axes.plot(*_points(_reached(line, cells, steps[0])), color=GREY, linewidth=1.2)
        for i, line in enumerate(settings, 1):
            for step, dash in zip(steps, DASHES, strict=False):
                axes.plot(
                    *_points(_reached(line, cells, step)), color=_look(line)[0], linestyle=dash,
                    linewidth=1.6, alpha=0.25 + 0.75 * i / len(settings),
                )  # fmt: skip
        axes.set_title(name, fontsize=9, color=_look(settings[0])[0])
        _radii(axes, cells)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - ACROSS) : len(panels)]:  # nothing is seen below them
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(RADIUS, fontsize=8)
    handles = [Line2D([], [], color=LIGHT.ink, linestyle=dash, label=f"attacker: {TITLES[step]}")
               for step, dash in zip(steps, DASHES, strict=False)]  # fmt: skip
    handles += [Line2D([], [], color=GREY, label=f"{MODEL}, {TITLES[steps[0]]}")] * bool(plain)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.supylabel("answered rightly", fontsize=9)
    return figure


def _reached(line: Line, cells: Sequence[Cell], step: str) -> list[tuple[float, Rate]]:
    """Radius and rate of a line, from the clean picture to the largest ball of an attacker."""
    wanted = [cell for cell in cells if cell == CLEAN or cell.step == step]
    return [(cell.eps, line.rates[cell]) for cell in wanted if cell in line.rates]


def _points(reached: Sequence[tuple[float, Rate]]) -> tuple[list[float], list[float]]:
    return [eps for eps, _ in reached], [rate.value for _, rate in reached]


def _radii(axes: Axes, cells: Sequence[Cell]) -> None:
    axes.set(xlabel=RADIUS, ylim=(0, 1.02))
    axes.set_xticks(sorted({cell.eps for cell in cells}))
    axes.label_outer()
    _tidy(axes)


def trade(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Clean accuracy against what the hardest attacker leaves at the largest radius."""
    attacked = _hardest(cells)
    shown = [line for line in found if CLEAN in line.rates and attacked in line.rates]
    if attacked is None or not shown:
        return None
    figure = Figure((WIDTH, 4.2 + ROW * len(shown) / 3), layout="constrained")
    axes = figure.add_subplot()
    for number, line in enumerate(shown, 1):
        x, y = line.rates[CLEAN], line.rates[attacked]
        colour, marker = _look(line)
        axes.errorbar(
            x.value, y.value, xerr=_bar(x), yerr=_bar(y), fmt=marker, color=colour, markersize=7,
            elinewidth=0.8, alpha=0.9, label=f"{number}  {line.title}",
        )  # fmt: skip
    for place, numbers in _neighbours(
        [(line.rates[CLEAN].value, line.rates[attacked].value) for line in shown]
    ).items():
        rows = (numbers[i : i + ABREAST] for i in range(0, len(numbers), ABREAST))
        words = "\n".join(", ".join(row) for row in rows)
        axes.annotate(words, place, (6, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel="answered rightly, clean", ylabel=f"answered rightly, {attacked.title}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def _neighbours(dots: Sequence[tuple[float, float]]) -> dict[tuple[float, float], list[str]]:
    """The rightmost of the dots that lie together -> their numbers, from left to right.

    Written beside their own dots, the numbers would lie on each other.
    """
    reach = [
        share * (max(values) - min(values))
        for share, values in zip(NEAR, zip(*dots, strict=True), strict=True)
    ]
    groups: list[list[int]] = []
    for i in sorted(range(len(dots)), key=dots.__getitem__):
        near = [
            group
            for group in groups
            if any(_within(dots[i], dots[other], reach) for other in group)
        ]
        groups = [group for group in groups if group not in near]
        joined = [other for group in near for other in group]
        groups.append([*sorted(joined, key=dots.__getitem__), i])
    return {dots[group[-1]]: [str(i + 1) for i in group] for group in groups}


def _within(a: Sequence[float], b: Sequence[float], reach: Sequence[float]) -> bool:
    return all(abs(one - other) <= r for one, other, r in zip(a, b, reach, strict=True))


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
