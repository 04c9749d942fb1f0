"""Gauges and curves of detectors, as HTML and SVG. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log2, log10

from vlmdefense_demo.ui.words import ENGLISH, Words

Line = tuple[str, str, Sequence[tuple[float, float]]]  # class, name, points in [0, 1]
SIDE, EDGE, FOOT = 196, 44, 30
WIDTH, HEIGHT, RIGHT, TOP = 380, 176, 14, 14
SMALLEST = 1e-4  # of a logarithmic axis
SIGNS = {"alarm": "✓", "no alarm": "✓", "false alarm": "✗", "missed": "✗"}
LOOK = {"alarm": "held", "no alarm": "held", "false alarm": "fooled", "missed": "fooled"}


def gauge(
    title: str,
    rows: Sequence[tuple[str, float, str]],
    top: float,
    threshold: float | None,
    words: Words = ENGLISH,
) -> str:
    """One bar a picture from 0 to `top`, all with the same threshold marked.

    Args:
        rows: (what is measured, its score, the key of the word on its chip or "").
        threshold: None draws none.
    """
    mark = ""
    if threshold is not None:
        mark = f'<b style="left:{_share(threshold, top):.2f}%"></b>'
    lines = []
    for what, score, word in rows:
        side = "" if threshold is None else " over" if score > threshold else " under"
        chip = ""
        if word:
            chip = f'<span class="chip {LOOK[word]}">{SIGNS[word]} {words(word)}</span>'
        lines.append(
            f'<div class="reading"><span class="what">{escape(what)}</span>'
            f'<span class="track"><i class="fill{side}" style="width:{_share(score, top):.2f}%"></i>'
            f'{mark}</span><span class="num">{score:.3f}</span>{chip}</div>'
        )
    spoken = ", ".join(f"{what} {score:.3f}" for what, score, _ in rows)
    if threshold is not None:
        above = words("detectors.above", threshold=f"{threshold:.3f}")
        spoken += f", {above}"
        lines.append(_scale(threshold, top, above))
    label = escape(f"{title}: {spoken}")
    return f'<div class="gauge" role="group" aria-label="{label}">{"".join(lines)}</div>'


def _scale(threshold: float, top: float, above: str) -> str:
    """The threshold's value below its marks."""
    return (
        '<div class="reading scale-row" aria-hidden="true"><span></span><span class="track">'
        f'<span class="at" style="left:{_share(threshold, top):.2f}%">{above}</span></span></div>'
    )


def _share(value: float, top: float) -> float:
    return 100 * min(max(value / top, 0.0), 1.0)


def roc(lines: Sequence[Line], title: str, words: Words = ENGLISH) -> str:
    """Detections over false alarms, both from 0 to 1, with the diagonal of chance and a legend."""
    inner = SIDE - EDGE - 8
    tall = SIDE - FOOT - 8

    def at(point: tuple[float, float]) -> str:
        return f"{EDGE + inner * point[0]:.1f},{8 + tall * (1 - point[1]):.1f}"

    start, end = (at(point).split(",") for point in ((0.0, 0.0), (1.0, 1.0)))
    parts = [
        f'<rect class="frame" x="{EDGE}" y="8" width="{inner}" height="{tall}"/>',
        f'<line class="chance" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>',
        *(
            f'<polyline class="{escape(kind)}" points="{" ".join(map(at, points))}"/>'
            for kind, _, points in lines
        ),
        f'<text x="{EDGE - 5}" y="14" text-anchor="end">100 %</text>',
        f'<text x="{EDGE - 5}" y="{8 + tall}" text-anchor="end">0</text>',
        f'<text x="{EDGE + inner}" y="{SIDE - 16}" text-anchor="end">100 %</text>',
        f'<text x="{EDGE + inner / 2}" y="{SIDE - 3}" text-anchor="middle">'
        f"{words('roc.false')}</text>",
        f'<text transform="rotate(-90)" x="{-(8 + tall / 2):.0f}" y="11" '
        f'text-anchor="middle">{words("roc.detected")}</text>',
    ]
    names = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{escape(kind)}" '
        f'points="0,4 26,4"/></svg>{escape(name)}</li>'
        for kind, name, _ in lines
    )
    return (
        f'<figure class="roc"><svg class="plot" viewBox="0 0 {SIDE} {SIDE}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><ul>{names}</ul></figure>'
    )


def drift(
    amplitudes: Sequence[float],
    clean: Sequence[float],
    attacked: Sequence[float],
    cross: float | None,
    read_at: float,
    words: Words = ENGLISH,
) -> str:
    """Both curves over the noise amplitude, the crossover, and where the score is read.

    Both axes are logarithmic: under weak noise the curves differ by little and by a large factor.
    """
    values = [max(v, SMALLEST) for v in (*clean, *attacked)]
    bottom, top = floor(log10(min(values))), log10(max(values)) + 0.05
    low, high = log2(amplitudes[0]), log2(amplitudes[-1])
    inner, tall = WIDTH - EDGE - RIGHT, HEIGHT - FOOT - TOP
    base = TOP + tall

    def across(amplitude: float) -> float:
        return EDGE + inner * (log2(amplitude) - low) / (high - low)

    def up(value: float) -> float:
        return TOP + tall * (top - log10(max(value, SMALLEST))) / (top - bottom)

    def line(name: str, values: Sequence[float]) -> str:
        points = zip(amplitudes, values, strict=True)
        path = " ".join(f"{across(a):.1f},{up(v):.1f}" for a, v in points)
        return f'<polyline class="{name}" points="{path}"/>'

    def upright(kind: str, amplitude: float, text: str, y: float) -> str:
        """A line down to the axis, its words on the side that has room."""
        x = across(amplitude)
        side, gap = ("end", -5) if x > EDGE + inner / 2 else ("start", 5)
        return (
            f'<line class="{kind}" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{base}"/>'
            f'<text class="{kind}" x="{x + gap:.1f}" y="{y}" text-anchor="{side}">{text}</text>'
        )

    crossing = words("drift.cross", at=f"{cross:.1f}") if cross else words("drift.never")
    tens = [10.0**k for k in range(bottom, floor(top) + 1)]
    parts = [
        *(
            f'<line class="axis" x1="{EDGE}" y1="{up(v):.1f}" x2="{EDGE + inner}" y2="{up(v):.1f}"/>'
            f'<text x="{EDGE - 5}" y="{up(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
            for v in tens
        ),
        *(
            f'<text x="{across(a):.1f}" y="{base + 13}" text-anchor="middle">{a:g}</text>'
            for a in amplitudes
        ),
        f'<text x="{EDGE + inner / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{words('drift.axis')}</text>",
        upright("read", read_at, words("drift.read", at=f"{read_at:g}"), base - 6),
        *([upright("cross", cross, crossing, TOP + 9)] if cross else []),
        line("clean", clean),
        line("attacked", attacked),
    ]
    keys = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="{name}" '
        f'points="0,4 26,4"/></svg>{words(name)}</li>'
        for name in ("clean", "attacked")
    )
    title = words("drift.title", crossing=crossing)
    return (
        f'<figure class="drift"><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg><ul>{keys}</ul></figure>'
    )
