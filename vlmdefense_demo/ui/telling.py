"""Cards and lines of the page as `Said`: English where they are made, any language where they go."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import headline
from vlmdefense_demo.ui.words import Said, said


def status(text: str, failed: bool = False, pending: bool = False, making: bool = False) -> Said:
    """The line under the controls, also announced to screen readers.

    While it is `pending`, the page shows all results as stale: they are of an earlier run. While
    the file is in the `making`, so are the pictures.
    """
    kind = "vd-status" + " failed" * failed + " pending" * pending + " making" * making
    start = f'<div class="{kind}" role="status" aria-live="polite">'
    return said(lambda words: f"{start}{escape(words.say(text))}</div>")


def stale() -> Said:
    """What is said while results are of other settings; style.css shows it, so a screen reader is told."""
    return said(
        lambda words: (
            f'<p class="stale-note" role="status"><span>{words("status.stale")}</span></p>'
        )
    )


def defence(card: Card, order: Sequence[str]) -> Said:
    """A finished defence's card."""
    return said(lambda words: html.defence(card, order, words))


def undefended(card: Card, order: Sequence[str], waiting: str = "attacking") -> Said:
    """The reference line; `waiting` is the key of what stands where there is no verdict."""
    return said(lambda words: html.undefended(card, order, waiting, words))


def verdict(card: Card, badge: str = "") -> Said:
    """The headline and the facts of the file."""
    return said(lambda words: headline.verdict(card, badge, words))


def placeholder(method: str, state: str, hint: str = "") -> Said:
    """The card of a defence that has no answer: `state` is the key of its word."""
    return said(lambda words: html.placeholder(method, state, hint, words))


def unread() -> Said:
    """What the detectors' panel shows until they have run on the pictures of the page."""
    return said(lambda words: f'<p class="vd-caption">{words("detectors.unread")}</p>')
