"""A defence's setting was moved: its card again, on the picture and the file of the last run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from vlmdefense_demo.engine import redefend
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui.handlers import Earlier, Site, status

logger = logging.getLogger(__name__)


def again(
    site: Site, earlier: Earlier | None, id: str, values: Mapping[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """(card, status) of one defence at new settings; nothing happens before the first run."""
    title = entry(id).title
    if earlier is None:
        yield gr.skip(), status(f"{title} is set. Press “Attack & defend” to see it.")
        return
    if id not in earlier.request.defenses:
        yield gr.skip(), gr.skip()
        return
    yield html.placeholder(id, "running …"), gr.skip()
    request = replace(earlier.request, defenses={id: dict(values)})

    def work() -> Card:
        backbone = site.load(earlier.model, logger.info)
        return list(redefend(request, backbone, earlier.card))[-1]

    try:
        card = site.worker.call(work)
    except DemoError as error:
        yield html.placeholder(id, "not run", str(error)), status(str(error), failed=True)
        return
    words = f"{title} again, on the same file."
    if earlier.request.rungs:
        words += " The attacker who knows it is tried at the next run."
    yield html.defence(card, html.class_order(earlier.card)), status(words)
