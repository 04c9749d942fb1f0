"""The table as pictures: accuracy over the radius, what robustness costs in clean answers and in time.

A paradigm is a colour and a marker, as on the page; settings of one paradigm differ by their dashes.
Bands and bars are 95 % intervals. What nobody attacked is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from vlmdefense_demo.benchmark.rows import Row
from vlmdefense_demo.benchmark.statistics import Rate
from vlmdefense_demo.benchmark.tables import MODEL, TITLES, Cell, Line, columns, lines
from vlmdefense_demo.figures import DASHES, LIGHT, MARKERS
from vlmdefense_demo.types import Paradigm

WIDTH, ROW, DPI = 7.2, 0.26, 150  # inches
BAR, PANEL = 0.36, 1.55
CROWD = 8  # lines of one panel
ACROSS = 4  # panels beside each other
LABEL, APART = 0.17, 0.05  # of a name: inches a line, and the share of a panel's height at most
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
                    linewidth=1.6, alpha=_strength(i, settings),
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
    """Clean accuracy against what the hardest attacker leaves; settings of a defence are one path.

    From faint to strong in the table's order; the name stands beside the last.
    """
    attacked = _telling(found, cells)
    shown = [line for line in found if CLEAN in line.rates and attacked in line.rates]
    if attacked is None or not shown:
        return None
    paths: dict[str, list[Line]] = {}
    for line in shown:
        paths.setdefault(line.name, []).append(line)
    figure = Figure((WIDTH, max(4.2, 1.2 + LABEL * len(paths))), layout="constrained")
    axes = figure.add_subplot()
    ends, crowded = {}, len(shown) > CROWD
    for name, settings in paths.items():
        colour, marker = _look(settings[0])
        dots = [(line.rates[CLEAN], line.rates[attacked]) for line in settings]
        axes.plot([x.value for x, _ in dots], [y.value for _, y in dots], color=colour,
                  linewidth=0.8, alpha=0.6)  # fmt: skip
        for i, (x, y) in enumerate(dots, 1):
            axes.errorbar(
                x.value, y.value, xerr=None if crowded else _bar(x),
                yerr=None if crowded else _bar(y), fmt=marker, color=colour, markersize=7,
                markeredgewidth=0, elinewidth=0.8, alpha=_strength(i, dots),
            )  # fmt: skip
        ends[_path(name, settings)] = (dots[-1][0].value, dots[-1][1].value)
    axes.set(xlabel="answered rightly, clean", ylabel=f"answered rightly, {attacked.title}")
    _beside(axes, ends)
    marks = dict.fromkeys((line.paradigm, *_look(line)) for line in shown)
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7,
                      label=MODEL if paradigm == "none" else paradigm.replace("_", " "))
               for paradigm, colour, marker in marks]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _tidy(axes)
    return figure


def _path(name: str, settings: Sequence[Line]) -> str:
    """ "R-TPT · views 8 … views 64" """
    first, last = settings[0].title, settings[-1].title
    return first if len(settings) == 1 else f"{first} … {last.removeprefix(f'{name} · ')}"


def _beside(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Names in a column right of the panel, each with a thread to its dot."""
    low, high = axes.get_ylim()
    # Of two dots as high the right one has the lower name, so that threads do not cross.
    names = sorted(ends, key=lambda name: (ends[name][1], -ends[name][0]))
    wanted = [(ends[name][1] - low) / (high - low) for name in names]
    for name, place in zip(names, _apart(wanted, min(APART, 1 / len(names))), strict=True):
        axes.annotate(
            name, ends[name], (1.03, place), textcoords="axes fraction", fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1], each with a gap to the next, moved as little as that takes."""
    steps = gap * np.arange(len(wanted))
    places = isotonic_regression(np.asarray(wanted) - steps).x
    return (places.clip(0, max(0.0, 1 - steps[-1])) + steps).tolist()


def latency(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Median time of a single picture."""
    shown = [(line, line.ms) for line in found if line.ms]
    return _bars(shown, "time of a picture") if shown else None


def price(found: Sequence[Line], cells: Sequence[Cell]) -> Figure | None:
    """Time for one right answer against the hardest attacker.

    The time of a picture over the share answered rightly; without right answers there is no price.
    """
    attacked = _telling(found, cells)
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
    return _bars(shown, f"time for one right answer, {attacked.title}")


FIGURES: dict[str, Callable[[Sequence[Line], Sequence[Cell]], Figure | None]] = {
    "curves": curves, "trade": trade, "latency": latency, "price": price,
}  # fmt: skip


def _telling(found: Sequence[Line], cells: Sequence[Cell]) -> Cell | None:
    """The last attacker, who stands on what those before him broke, where he parts the defences most."""
    if not cells or not cells[-1].eps:
        return None
    his = [cell for cell in reversed(cells) if cell.step == cells[-1].step]
    return max(
        his, key=lambda cell: _spread([x.rates[cell].value for x in found if cell in x.rates])
    )


def _spread(values: Sequence[float]) -> float:
    return max(values, default=0.0) - min(values, default=0.0)


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
    axes.bar_label(bars, [_time(value) for value in values], padding=3)
    axes.set(xscale="log", xlabel=f"{label}, logarithmic", xlim=(min(values) / 2, max(values) * 3))
    axes.xaxis.set_major_formatter(lambda value, _: _time(value))
    axes.margins(y=0.6 / len(shown))
    axes.invert_yaxis()
    _tidy(axes)
    return figure


def _time(ms: float) -> str:
    """ "83.2 ms", "1.82 s", "239 s" """
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1000:.3g} s"


def _strength(i: int, settings: Sequence[object]) -> float:
    """How strong the i-th of some settings is drawn, counted from 1."""
    return 0.25 + 0.75 * i / len(settings)


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
