"""A card's disclosure: what the method says about itself, its settings, and how it is attacked."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from vlmdefense_demo.flags import FLAGS
from vlmdefense_demo.spec import Field, Range, fields
from vlmdefense_demo.survey import defender, entry
from vlmdefense_demo.types import Card, Note
from vlmdefense_demo.ui import figures


def more(card: Card) -> str:
    """What the method reports about itself, its settings, and what its flags mean."""
    row = entry(card.method)
    facts = [(escape(n.title), _note(n)) for n in card.notes if n.kind not in figures.KINDS]
    facts += [
        (escape(row.words[f.name]), _shown(f, card.params))
        for f in fields(row.cls)
        if f.name in card.params
    ]  # a story may be older than a setting
    rows = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in facts)
    shown = "".join(figures.figure(note) for note in card.notes)
    flags = "".join(f"<p><b>{FLAGS[f][0]}</b>: {FLAGS[f][1]}</p>" for f in row.flags)
    known = f"<p><b>an attacker who knows it</b>: {escape(defender(row).recipe)}</p>"
    return (
        f'<details class="more"><summary>How it decided, and how it is attacked</summary>'
        f"<p>{escape(row.idea)}</p>{shown}<dl>{rows}</dl>{known}{flags}</details>"
    )


def _shown(field: Field, params: Mapping[str, Any]) -> str:
    unit = field.domain.unit if isinstance(field.domain, Range) else ""
    return escape(f"{params[field.name]} {unit}".strip())


def _note(note: Note) -> str:
    if note.kind == "gauge":
        return f"{note.value['value']:.3f} (threshold {note.value['threshold']:g})"
    if note.kind == "series":
        return " → ".join(f"{v:.3f}" for v in note.value)
    if note.kind == "number":
        return f"{note.value:.3f}"
    return escape(str(note.value))
