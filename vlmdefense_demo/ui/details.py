"""A card's disclosure: what the method says about itself, its settings, and how it is attacked."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from vlmdefense_demo.spec import Field, Range, fields
from vlmdefense_demo.survey import defender, entry
from vlmdefense_demo.types import Card, Note
from vlmdefense_demo.ui import figures
from vlmdefense_demo.ui.words import ENGLISH, Words


def more(card: Card, words: Words = ENGLISH) -> str:
    """What the method reports about itself, its settings, and what its flags mean.

    What it says of itself is English.
    """
    row = entry(card.method)
    facts = [
        (words.english(n.title), _note(n, words)) for n in card.notes if n.kind not in figures.KINDS
    ]
    facts += [
        (words.english(row.words[f.name]), _shown(f, card.params))
        for f in fields(row.cls)
        if f.name in card.params
    ]  # a story may be older than a setting
    rows = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in facts)
    shown = "".join(figures.figure(note, words) for note in card.notes)
    flags = "".join(
        f"<p><b>{words(f'flag.{f}')}</b>: {words(f'flag.{f}.why')}</p>"
        for f in row.flags
        if f in card.flags
    )
    known = f"<p><b>{words('card.aware')}</b>: {words.english(defender(row).recipe)}</p>"
    return (
        f'<details class="more"><summary>{words("card.more")}</summary>'
        f"<p>{words.english(row.idea)}</p>{shown}<dl>{rows}</dl>{known}{flags}</details>"
    )


def _shown(field: Field, params: Mapping[str, Any]) -> str:
    unit = field.domain.unit if isinstance(field.domain, Range) else ""
    return escape(f"{params[field.name]} {unit}".strip())


def _note(note: Note, words: Words) -> str:
    if note.kind == "gauge":
        value, threshold = f"{note.value['value']:.3f}", f"{note.value['threshold']:g}"
        return words("card.threshold", value=value, threshold=threshold)
    if note.kind == "series":
        return " → ".join(f"{v:.3f}" for v in note.value)
    if note.kind == "number":
        return f"{note.value:.3f}"
    return words.english(str(note.value))
