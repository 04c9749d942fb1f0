"""Notes that are pictures or curves, as HTML and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

from vlmdefense_demo.types import Note
from vlmdefense_demo.ui.words import ENGLISH, Words

KINDS = ("curves", "images")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 132, 34, 24, 8


def figure(note: Note, words: Words = ENGLISH) -> str:
    """A figure with its caption, or nothing for a note that is no figure; captions are English."""
    if note.kind == "curves":
        names = {name: words(name) for name in ("clean", "attacked")}
        lines = [(name, note.value[name]) for name in names]
        body = plot(note.value["x"], lines, note.title, names=names)
    elif note.kind == "images":
        body = "".join(
            f'<span><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"{escape(caption)}</span>"
            for caption, data in note.value
        )
        body = f'<div class="shown"{words.foreign}>{body}</div>'
    else:
        return ""
    return f'<figure class="vd-figure"><figcaption>{words.english(note.title)}</figcaption>{body}</figure>'


def plot(
    x: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float]]],
    title: str,
    top: float = 1.0,
    names: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Lines over x as SVG, each with its name at its end; y runs from 0 to `top`.

    Args:
        names: what to write for a line, where that is not its name.
    """
    low, high = min(x), max(x)
    inner, tall = WIDTH - LEFT - 62, HEIGHT - BOTTOM - TOP

    def at(a: float, b: float) -> tuple[float, float]:
        share = (a - low) / (high - low) if high > low else 0.0
        return LEFT + inner * share, TOP + tall * (1 - min(b / top, 1.0))

    parts = [
        f'<line class="axis" x1="{LEFT}" y1="{at(low, y)[1]:.1f}" x2="{LEFT + inner}" '
        f'y2="{at(low, y)[1]:.1f}"/><text x="{LEFT - 5}" y="{at(low, y)[1] + 4:.1f}" '
        f'text-anchor="end">{y:.2g}</text>'
        for y in (0.0, top / 2, top)
    ]
    parts += [
        f'<text x="{at(value, 0)[0]:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{value:g}</text>'
        for value in sorted({low, high})
    ]
    free = float(TOP)
    for name, values in sorted(lines, key=lambda line: -line[1][-1]):
        points = [at(a, b) for a, b in zip(x, values, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        end = points[-1]
        beside = max(end[1] + 4, free)  # names of lines that end together stand below each other
        free = beside + 12
        parts.append(
            f'<polyline class="{escape(name)}" points="{path}"/>'
            f'<text class="name" x="{end[0] + 6:.1f}" y="{beside:.1f}">'
            f"{escape(names.get(name, name))}</text>"
        )
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
