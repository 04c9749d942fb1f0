"""The report to download, made when it is asked for and kept no longer than the pictures."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.report import report
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status
from vlmdefense_demo.ui.words import language_of, refused, spoken, tell

logger = logging.getLogger(__name__)
SAVE = """(file) => {
  if (!file) return;
  const link = document.createElement('a');
  link.href = file.url; link.download = file.orig_name || 'report.zip';
  document.body.append(link); link.click(); link.remove();
}"""


def button(out: dict[str, Any]) -> None:
    """The button, and the file behind it."""
    out["report"] = gr.Button(tell("verdict.report"), elem_id="report", min_width=110)
    out["report_file"] = gr.File(visible="hidden", label="report")


def connect(out: dict[str, Any], site: Site) -> None:
    """Make the file, then hand it to the browser."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def start(earlier: Earlier | None, request: gr.Request) -> Any:
        return spoken(make(site, earlier), language_of(request))

    out["report"].click(
        start, out["earlier"], [out["report_file"], out["status"]], concurrency_id="report",
        concurrency_limit=1, **hidden,
    ).then(None, out["report_file"], None, js=SAVE, **hidden)  # fmt: skip


def make(site: Site, earlier: Earlier | None) -> tuple[Any, Any]:
    """(path of the zip or None, the status line) for what the page shows."""
    if earlier is None or not earlier.cards:
        return None, status(tell("status.report"), failed=True)
    try:
        data = report(earlier.request, earlier.model, earlier.cards, earlier.curves)
    except DemoError as error:
        return None, status(refused(error), failed=True)
    except Exception:
        logger.exception("a report failed")
        return None, status(tell("status.broke"), failed=True)
    name = f"report-{earlier.request.attack}-seed{earlier.request.seed}.zip"
    return site.outbox.put(data, name), gr.skip()
