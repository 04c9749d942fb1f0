"""The status line while the model loads. Nothing here waits for it, and the queue is not used."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlmdefense_demo.ui.events import Controls
from vlmdefense_demo.ui.handlers import Site, status

EVERY = 2.0  # seconds


def connect(demo: gr.Blocks, page: Controls, site: Site) -> None:
    """A page that is opened early says so, and looks again until the model is there."""
    hidden: dict[str, Any] = {
        "queue": False, "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip
    clock = gr.Timer(EVERY, active=False)
    demo.load(lambda: first(site), None, [page.out["status"], clock], **hidden)
    clock.tick(lambda: again(site), None, [page.out["status"], clock], **hidden)


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
    words = f"{site.model} is ready." if health == "ready" else site.trouble
    return status(words, failed=health == "failed"), gr.Timer(active=False)
