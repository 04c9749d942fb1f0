"""What happens when something is pressed. Handlers are pure: all state is in their arguments.

They say everything as `Said`, in every language; who asked in which is known where they are called.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.models.catalog import pick_device
from vlmdefense_demo.request import AWARE, Request
from vlmdefense_demo.survey import SURVEY, entry, methods
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import pictures
from vlmdefense_demo.ui.earlier import Earlier, Sheet, leave
from vlmdefense_demo.ui.form import Comparison, Form
from vlmdefense_demo.ui.jobs import Loading
from vlmdefense_demo.ui.pipeline import SLOT, slot
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import defence, placeholder, status, undefended, unread, verdict
from vlmdefense_demo.ui.words import ENGLISH, Words, joined, refused, said, spoken, tell
from vlmdefense_demo.ui.worker import Step

logger = logging.getLogger(__name__)
DEFENSES = tuple(methods("defense"))
FIXED = ("status", "go", "stop", "verdict", *pictures.OUTPUTS, "undefended", "download", "report",
         "earlier", "detect", "readings", "story")  # fmt: skip
OUTPUTS = (*FIXED, *DEFENSES, SLOT)
Update = dict[str, Any]


def run(site: Site, form: Form, session: str, before: Earlier | None = None) -> Iterator[Update]:
    """Stream one comparison as partial updates of the page, keyed by output name.

    Args:
        before: what the page shows until the first card is there.
    """
    yield opening()
    asked: list[Request] = []
    done: list[Card] = []
    sheet = Sheet()
    try:
        for event in site.worker.stream(session, Comparison(form, site.at(form.model))):
            if isinstance(event, Step):
                words = _progress(event, done) or site.waiting()
                yield {"status": status(words, pending=not done, making=_making(done))}
                continue
            if isinstance(event, Request):
                asked.append(event)
                continue
            queued = {} if done else queue(form)
            leave(before)
            done.append(event)
            yield queued | show(site, form, done, asked[0], sheet)
    except DemoError as error:
        logger.info("%s: %s", type(error).__name__, error)
        yield from _kept(form, done, asked, sheet)
        yield closing(form, done, refused(error), isinstance(error, Cancelled))
    except Exception:
        # The page's last line of defence: the buttons come back, the trace goes to the log.
        logger.exception("a comparison failed")
        yield closing(form, done, tell("status.broke"))
    else:
        yield from _kept(form, done, asked, sheet)
        yield closing(form, done, "")


def _kept(
    form: Form, done: Sequence[Card], asked: Sequence[Request], sheet: Sheet
) -> Iterator[Update]:
    """Every method's newest card, for the curves and the report; nothing if there was no attack."""
    cards = {card.method: card for card in done}
    if done and cards["undefended"].attack is not None:
        sheet.cards = tuple(cards.values())
        yield {"earlier": Earlier(asked[0], form.model, sheet.cards[0], sheet=sheet).newest()}


def opening() -> Update:
    """Buttons switched; earlier results stay, marked stale, until the form has proved usable."""
    return {
        "status": status(tell("status.starting"), pending=True),
        "go": gr.Button(interactive=False),
        "stop": gr.Button(interactive=True),
        "detect": gr.Button(interactive=False),  # they would read the pictures of the run before
        # The run would go on over another one, and is none of them.
        "story": gr.update(interactive=False, value=None),
    }


def queue(form: Form) -> Update:
    """Every chosen card queued, the others off."""
    words = dict.fromkeys(DEFENSES, "ready") | dict.fromkeys(form.defenses, "queued")
    return {id: placeholder(id, word) for id, word in words.items()}


def show(site: Site, form: Form, done: Sequence[Card], request: Request, sheet: Sheet) -> Update:
    """The update the newest card brings."""
    card, first = done[-1], _undefended(done)
    order = html.class_order(first)
    if card.method != "undefended":
        return {card.method: defence(card, order)} | _next(form, done)
    update: Update = {"undefended": undefended(card, order), "verdict": verdict(card)}
    if _making(done):
        update["status"] = status(tell("status.attacking"), making=True)
        # Both are of the run before.
        update["download"] = gr.DownloadButton(interactive=False)
        update["report"] = gr.Button(interactive=False)
    elif sum(c.attack is not None for c in done) == 1:
        assert card.attack is not None
        update |= pictures.made(site.outbox, request.image, card.attack) | _next(form, done)
        update["earlier"] = Earlier(request, form.model, card, sheet=sheet)
        update["readings"] = unread()
        update["status"] = status(tell("status.defending"))
    elif card.attack is not None:
        update |= pictures.looked(request.image, card.attack, card.notes)
    return update


def closing(form: Form, done: Sequence[Card], error: str, stopped: bool = False) -> Update:
    """Buttons back; cards that never ran say so. Before the first card nothing else changes."""
    words = error or _summary(done, form.knows)
    update: Update = {
        "status": status(words, failed=bool(error) and not stopped, pending=not done),
        "go": gr.Button(interactive=True),
        "stop": gr.Button(interactive=False),
        "detect": gr.Button(interactive=True),
        "story": gr.update(interactive=True),
    }
    if not done:
        return update
    update["report"] = gr.Button(interactive=True)
    why = "stopped" if stopped else "not_run"
    finished = {card.method for card in done}
    update |= {id: placeholder(id, why) for id in form.defenses if id not in finished}
    first = _undefended(done)
    if first.attack is None:  # the pictures on the page are of an earlier attack
        update |= pictures.cleared()
        update["undefended"] = undefended(first, html.class_order(first), why)
        update["download"] = gr.DownloadButton(value=None, interactive=False)
        update["earlier"] = None  # and so is what was known of them
        update["readings"] = unread()
    return update


def _making(done: Sequence[Card]) -> bool:
    """Whether the clean answer is there and the attacked file is not."""
    return bool(done) and all(card.attack is None for card in done)


def as_outputs(update: Update, words: Words = ENGLISH) -> tuple[Any, ...]:
    """A full-length tuple in the page's output order; what is not named stays as it is.

    Args:
        words: the language of who asked.
    """
    update = {slot(name): spoken(value, words) for name, value in update.items()}
    return tuple(update.get(name, gr.skip()) for name in OUTPUTS)


def change_model(site: Site, name: str) -> Iterator[tuple[Any, Any]]:
    """Load on selection, with a sentence; on failure the embedded model stays selected."""
    place = site.at(name)
    try:
        if not place.ready:
            yield gr.skip(), status(tell("status.loading", name=name))
            site.worker.collect(Loading(place))
    except DemoError as error:
        yield site.model, status(refused(error), failed=True)
        return
    yield gr.skip(), status(tell("status.loaded", name=name, device=pick_device(site.device)))


def _undefended(done: Sequence[Card]) -> Card:
    return [card for card in done if card.method == "undefended"][-1]


def _next(form: Form, done: Sequence[Card]) -> Update:
    finished = {card.method for card in done}
    waiting = [id for id in form.defenses if id not in finished]
    return {waiting[0]: placeholder(waiting[0], "running")} if waiting else {}


def _progress(step: Step, done: Sequence[Card]) -> str:
    """What is running; before the first card only what has to be waited for, if that is known."""
    if not done:
        return "" if step.total else step.method
    now = {"done": step.done + 1, "total": step.total}
    method, *more = step.method.split("/")
    if more and slot(more[0]) in OUTPUTS:
        tried = [name for name in AWARE if name in more]
        rung = said(lambda words: ", ".join(words(f"rung.{name}") for name in tried))
        return tell("status.knows", title=entry(more[0]).title, rung=rung, **now)
    known = method in SURVEY or slot(method) == SLOT
    return tell("status.step", what=entry(method).title if known else tell("status.attack"), **now)


def _summary(done: Sequence[Card], knows: bool) -> str:
    """How many defences held, of those that were right on the clean picture, attacker by attacker."""
    newest = {card.method: card for card in done if card.method != "undefended" and card.verdict}
    judged = [card for card in newest.values() if card.verdict != "wrong_clean"]
    if not newest:
        return tell("done")
    missed = len(newest) - len(judged)
    if not judged:
        return tell("done.nothing")
    start, more = "done.held", "done.aware"
    if _undefended(done).verdict == "held":
        start, more = "done.untested", "done.untested.aware"
    counts = {"held": sum(card.verdict == "held" for card in judged), "judged": len(judged)}
    parts = [tell(start, **counts)]
    if any(len(card.ladder) > 1 for card in judged):
        counts["held"] = sum(not card.broken_by for card in judged)
        parts.append(tell(more, **counts))
    elif knows:
        parts.append(tell("done.no_ball"))
    if missed:
        parts.append(tell("done.missed", missed=missed))
    return tell("done.one", words=joined(*parts))
