"""The status line while the model loads. Nothing here waits for it, and the queue is not used."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlmdefense_demo.ui.page import Controls
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status
from vlmdefense_demo.ui.words import language_of, spoken, tell

EVERY = 2.0  # seconds


def connect(demo: gr.Blocks, page: Controls, site: Site) -> None:
    """A page that is opened early says so, and looks again until the model is there."""
    hidden: dict[str, Any] = {
        "queue": False, "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip
    clock = gr.Timer(EVERY, active=False)

    def opened(request: gr.Request) -> Any:
        return spoken(first(site), language_of(request))

    def ticked(request: gr.Request) -> Any:
        return spoken(again(site), language_of(request))

    demo.load(opened, None, [page.out["status"], clock], **hidden)
    clock.tick(ticked, None, [page.out["status"], clock], **hidden)


def first(site: Site) -> tuple[Any, Any]:
    """(status line, clock) for a page that has just been opened."""
    if site.health() == "ready":
        return gr.skip(), gr.skip()
    return again(site) if site.trouble else (status(site.waiting()), gr.Timer(active=True))


def again(site: Site) -> tuple[Any, Any]:
    """(status line, clock) for one that waits."""
    health = site.health()
    if health == "loading":
        return gr.skip(), gr.skip()
    text = tell("status.there", name=site.model) if health == "ready" else site.trouble
    return status(text, failed=health == "failed"), gr.Timer(active=False)
