"""The figures of a comparison: the attack step by step, the radius, the price.

Drawn with matplotlib's objects, never with pyplot, whose state all threads would share. A paradigm
is a colour and a marker; sizes are chosen so that text has 12 px where a figure is 360 px wide.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vlmdefense_demo.curves import Curve, right_prob
from vlmdefense_demo.types import AttackReport, Card, Paradigm

WIDTH, DPI, SHARP = 360, 100, 2
PIXEL = 72 / DPI  # one CSS pixel, in the points matplotlib counts in
TEXT = 12 * PIXEL
MARKERS: dict[Paradigm, str] = {
    "none": "D", "training_time": "s", "test_time": "^", "training_free": "o",
}  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
NAMED = 8  # more points than this have numbers, and their names stand below
AXIS = "probability of the right label"


@dataclass(frozen=True)
class Theme:
    """Colours of a page: what is written, what is drawn faintly, the ground, one a paradigm."""

    ink: str
    soft: str
    line: str
    paper: str
    colours: dict[Paradigm, str]


LIGHT = Theme(
    "#14161c", "#565c6b", "#dfe3ea", "#ffffff",
    {"none": "#14161c", "training_time": "#3451b2", "test_time": "#7c2fe0",
     "training_free": "#0b766b"},
)  # fmt: skip
DARK = Theme(
    "#f1f3f8", "#aab1c0", "#333a48", "#171b23",
    {"none": "#f1f3f8", "training_time": "#8fa6ff", "test_time": "#c09bff",
     "training_free": "#4fd0c2"},
)  # fmt: skip


def margins(report: AttackReport, theme: Theme) -> bytes | None:
    """The attack's margin at every iterate as a PNG; None for one that records fewer than two."""
    values = [m if math.isfinite(m) else math.nan for m in report.margins]
    if len(values) < 2:
        return None
    figure, axes = _empty(theme, 230)
    axes.axhline(0, color=theme.soft, linewidth=1, linestyle=(0, (4, 3)))
    every = max(1, len(values) // 20)
    axes.plot(
        range(len(values)), values, color=theme.colours["none"], linewidth=1.6, marker="D",
        markersize=3.5, markevery=every,
    )  # fmt: skip
    reached = "the target is the answer" if report.targeted else "the answer is wrong"
    axes.annotate(
        f"above 0: {reached}", (1, 0), (-2, 3), xycoords=axes.get_yaxis_transform(),
        textcoords="offset points", ha="right", color=theme.soft, fontsize=TEXT,
    )  # fmt: skip
    axes.set_xlabel("steps taken")
    axes.set_ylabel("margin, in logits")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, theme)


def radius(curve: Curve, theme: Theme) -> bytes:
    """Probability of the right label over the radius, a line a method, as a PNG."""
    rows = math.ceil(len(curve.lines) / 2)
    figure, axes = _empty(theme, 230 + 19 * rows, bottom=46 + 19 * rows)
    for line, style in zip(curve.lines, _styles(curve), strict=True):
        axes.plot(
            curve.eps, line.probs, label=line.title, color=theme.colours[line.paradigm],
            marker=MARKERS[line.paradigm], markersize=5, linewidth=1.6, linestyle=style,
            markerfacecolor=theme.paper if style != "-" else None, clip_on=False,
        )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_xticks(curve.eps)
    again = "attacked again at each radius, in levels of 255"
    axes.set_xlabel(again if curve.how == "again" else "L∞ of a part of this change, in levels")
    axes.set_ylabel(AXIS)
    _legend(figure, theme)
    return _png(figure, theme)


def price(cards: Sequence[Card], theme: Theme) -> bytes | None:
    """Probability of the right label against time a picture as a PNG; None before there is one.

    A filled marker is the attacked picture, a hollow one above or below it the clean picture, a
    cross what the attacker who knows the defence reached.
    """
    done = [c for c in cards if c.attacked and c.clean and c.cost and c.cost.seconds > 0]
    if not done:
        return None
    many = len(done) > NAMED
    below = 17 * math.ceil(len(done) / 2) + 6 if many else 0
    figure, axes = _empty(theme, 290 + below, bottom=66 + below)
    times = [1000 * c.cost.seconds for c in done if c.cost]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.5, max(max(times), 4 * min(times)) * 3)
    axes.set_ylim(-0.06, 1.06)
    spots = []
    for number, (card, ms) in enumerate(zip(done, times, strict=True), 1):
        assert card.clean is not None
        assert card.attacked is not None
        clean, attacked = (right_prob(p, card.right) for p in (card.clean, card.attacked))
        colour, marker = theme.colours[card.paradigm], MARKERS[card.paradigm]
        lowest = min((clean, attacked, *_known(card)))
        axes.plot([ms, ms], [lowest, max(clean, attacked)], color=colour, linewidth=1, alpha=0.6)
        axes.plot(ms, clean, marker, color=colour, markersize=9, markerfacecolor="none")
        axes.plot(ms, attacked, marker, color=colour, markersize=5)
        for prob in _known(card):
            axes.plot(ms, prob, "x", color=colour, markersize=7, markeredgewidth=1.8)
        spots.append((str(number) if many else card.title, ms, attacked))
        if many:
            row, column = divmod(number - 1, 2)
            place = (30 + 170 * column) / WIDTH, (20 + below - 17 * row) / (290 + below)
            figure.text(*place, f"{number}  {card.title}", color=theme.ink, fontsize=TEXT, va="top")
    _name(axes, spots, theme)
    kinds = (("clean", "o", "none"), ("attacked", "o", theme.soft), ("attacker knows", "x", "none"))
    _legend(figure, theme, [
        Line2D([], [], color=theme.soft, marker=marker, markerfacecolor=face, linestyle="",
               markersize=7, label=name) for name, marker, face in kinds
    ])  # fmt: skip
    axes.set_xlabel("time a picture, logarithmic")
    axes.set_ylabel(AXIS)
    axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s")
    axes.xaxis.set_minor_formatter(lambda ms, _: "")
    return _png(figure, theme)


def _known(card: Card) -> list[float]:
    """What is left of the right label against the strongest attacker who knows the defence."""
    probs = [right_prob(r.attacked, card.right) for r in card.ladder if r.name != "transfer"]
    return [min(probs)] if probs else []


def _styles(curve: Curve) -> list[object]:
    """A dash pattern a line: lines of one paradigm share colour and marker."""
    numbers = {line.paradigm: count() for line in curve.lines}
    return [DASHES[next(numbers[line.paradigm]) % len(DASHES)] for line in curve.lines]


def _name(axes: Axes, spots: Sequence[tuple[str, float, float]], theme: Theme) -> None:
    """Names beside their points, moved up or down where they would lie on something else."""
    places = [axes.transData.transform(spot[1:]) for spot in spots]
    taken = [(x - 8, x + 8, y) for x, y in places]
    for (title, ms, prob), (x, y) in zip(spots, places, strict=True):
        width, beside, move = 7.2 * len(title), y, -2 if prob > 0.5 else 2
        left = x + 11 if x + 11 + width < WIDTH else x - 11 - width
        while any(abs(beside - b) < 14 and left < r and left + width > a for a, r, b in taken):
            beside += move
        taken.append((left, left + width, beside))
        axes.annotate(
            title, (ms, prob), ((left - x) * PIXEL, (beside - y) * PIXEL),
            textcoords="offset points", va="center", fontsize=TEXT, color=theme.ink,
            arrowprops=None if beside == y else {"arrowstyle": "-", "color": theme.soft, "lw": 0.6},
        )  # fmt: skip


def _legend(figure: Figure, theme: Theme, handles: Sequence[Line2D] | None = None) -> None:
    figure.legend(
        handles=handles, loc="lower center", ncols=3 if handles else 2, frameon=False,
        fontsize=TEXT, labelcolor=theme.ink, handlelength=1 if handles else 3.5, borderaxespad=0.2,
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip


def _empty(theme: Theme, height: int, bottom: int = 46) -> tuple[Figure, Axes]:
    """A figure of WIDTH x `height` px with one pair of axes in the theme's colours."""
    figure = Figure((WIDTH / DPI, height / DPI), dpi=DPI, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    left, top = 54, 10
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, 1 - (left + 12) / WIDTH, 1 - (bottom + top) / height),
        facecolor=theme.paper,
    )
    axes.tick_params(colors=theme.soft, labelsize=TEXT, length=3)
    axes.xaxis.label.set(color=theme.soft, fontsize=TEXT)
    axes.yaxis.label.set(color=theme.soft, fontsize=TEXT)
    axes.grid(color=theme.line, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(color=theme.soft, visible=side in ("left", "bottom"))
    return figure, axes


def _png(figure: Figure, theme: Theme) -> bytes:
    """Drawn at twice its size for sharp screens, in few colours, so that it is a few kilobytes."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=SHARP * DPI, facecolor=theme.paper)
    Image.open(drawn).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()
