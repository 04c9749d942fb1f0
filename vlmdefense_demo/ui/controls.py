"""Hyperparameters as widgets: generated from the fields of a method, never written by hand.

Their names are those of the code, the endpoints and the command line, in every language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from vlmdefense_demo.spec import Choice, Field, Range, fields
from vlmdefense_demo.survey import Entry

Key = tuple[str, str]
Widgets = dict[Key, gr.components.Component]


def widgets(row: Entry, skip: tuple[str, ...] = (), visible: bool = True) -> Widgets:
    """One widget a field, in display units; fields named in `skip` have a widget elsewhere."""
    return {(row.id, f.name): _widget(f, visible) for f in fields(row.cls) if f.name not in skip}


def collect(row: Entry, found: Widgets, values: Mapping[Any, Any]) -> dict[str, Any]:
    """The parameters of a method as the widgets stand, in display units."""
    return {name: values[widget] for (id, name), widget in found.items() if id == row.id}


def _widget(f: Field, visible: bool) -> gr.components.Component:
    name = f.name.replace("_", " ")
    if isinstance(f.domain, Range):
        unit = f" ({f.domain.unit})" if f.domain.unit else ""
        return gr.Slider(
            f.shown(f.domain.low),
            f.shown(f.domain.high),
            f.shown(f.default),
            step=f.shown(f.domain.step) if f.domain.step else None,
            label=f"{name}{unit}",
            info=f.help,
            visible=visible,
        )
    if isinstance(f.domain, Choice):
        options = list(f.domain.options)
        return gr.Dropdown(options, value=f.default, label=name, info=f.help, visible=visible)
    return gr.Checkbox(f.default, label=name, info=f.help, visible=visible)
