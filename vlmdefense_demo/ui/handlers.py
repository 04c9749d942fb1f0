"""What happens when something is pressed. Handlers are pure: all state is in their arguments.

They say everything as `Said`, in every language; who asked in which is known where they are called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from vlmdefense_demo.curves import Curve
from vlmdefense_demo.engine import compare
from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.images import fit, read_upload, to_pixels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.request import AWARE, Aim, Request, check_request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.survey import SURVEY, entry, methods
from vlmdefense_demo.types import Card, Images
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import pictures
from vlmdefense_demo.ui.files import Outbox
from vlmdefense_demo.ui.pipeline import SLOT, slot
from vlmdefense_demo.ui.telling import defence, placeholder, status, undefended, unread, verdict
from vlmdefense_demo.ui.words import ENGLISH, Words, joined, refused, said, spoken, tell
from vlmdefense_demo.ui.worker import Step, Worker

logger = logging.getLogger(__name__)
DEFENSES = tuple(methods("defense"))
FIXED = ("status", "go", "stop", "verdict", *pictures.OUTPUTS, "undefended", "download", "earlier",
         "detect", "readings")  # fmt: skip
OUTPUTS = (*FIXED, *DEFENSES, SLOT)
Update = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """The page's controls as plain values, before anything is checked."""

    picture: str | None
    labels: str
    template: str
    truth: str
    goal: str
    target: str
    second: str | None
    knows: bool
    model: str
    attack: str
    attack_params: Mapping[str, Any]
    defenses: Mapping[str, Mapping[str, Any]]
    seed: float
    learned: Mapping[str, LearnedContext] = field(default_factory=dict)


@dataclass
class Site:
    """What all handlers share: the compute thread, the outbox, the device."""

    device: str = "auto"
    model: str = "pocket"
    worker: Worker = field(default_factory=Worker)
    outbox: Outbox = field(default_factory=Outbox)

    def load(self, name: str, say: Callable[[str], None]) -> Backbone:
        """The shared backbone of a catalog name, on this site's device."""
        return load_model(name, self.device, say=say)


@dataclass(frozen=True, eq=False)
class Earlier:
    """What the page shows: the request of the last run, its model, and its undefended card.

    Args:
        cards: the newest of each method, undefended first, once the run is over.
        curves: what was drawn of it since.
        story: read from files and not run here; moved settings wait for a run.
    """

    request: Request
    model: str
    card: Card
    cards: tuple[Card, ...] = ()
    curves: tuple[Curve, ...] = ()
    story: bool = False


def prepare(form: Form, backbone: Backbone) -> Request:
    """The checked request of a form.

    Raises:
        DemoError: anything on the form that cannot be used.
    """
    if not form.picture:
        raise DemoError("There is no picture yet.", "Choose an example or drop one of your own.")
    request = Request(
        _pixels(form.picture, backbone),
        form.labels.replace("\n", ",").split(","),
        form.template,
        form.attack,
        form.attack_params,
        form.defenses,
        form.truth.strip() or None,
        _aim(form, backbone),
        int(form.seed),
        rungs=AWARE if form.knows else (),
        exhibits=True,
        looks=True,
        learned=own_prompts(form.model, form.learned),
    )
    check_request(request)
    return request


def own_prompts(model: str, learned: Mapping[str, LearnedContext]) -> dict[str, LearnedContext]:
    """The session's learned prompts that belong to a model."""
    return {id: prompt for id, prompt in learned.items() if prompt.model == model}


def _pixels(path: str, backbone: Backbone) -> Images:
    how = backbone.preprocess
    return to_pixels(fit(read_upload(path).image, how.size, how.squash))


def _aim(form: Form, backbone: Backbone) -> Aim:
    """The goal of the form; a second picture that is hidden now is not meant."""
    second = _pixels(form.second, backbone) if form.goal == "picture" and form.second else None
    return Aim.at(form.target, form.goal, second)


def run(site: Site, form: Form, session: str) -> Iterator[Update]:
    """Stream one comparison as partial updates of the page, keyed by output name."""
    yield opening()
    say: list[str] = []
    asked: list[Request] = []

    def job(note: Progress, stopped: Callable[[], bool]) -> Iterator[Card]:
        backbone = site.load(form.model, say.append)
        request = prepare(form, backbone)
        asked.append(request)
        yield from compare(request, backbone, on_progress=note, should_stop=stopped)

    done: list[Card] = []
    try:
        for event in site.worker.stream(session, job):
            if isinstance(event, Step):
                words = _progress(event, done, say)
                yield {"status": status(words, pending=not done, making=_making(done))}
                continue
            queued = {} if done else queue(form)
            done.append(event)
            yield queued | show(site, form, done, asked[0])
    except DemoError as error:
        logger.info("%s: %s", type(error).__name__, error)
        yield from _kept(form, done, asked)
        yield closing(form, done, refused(error), isinstance(error, Cancelled))
    except Exception:
        # The page's last line of defence: the buttons come back, the trace goes to the log.
        logger.exception("a comparison failed")
        yield closing(form, done, tell("status.broke"))
    else:
        yield from _kept(form, done, asked)
        yield closing(form, done, "")


def _kept(form: Form, done: Sequence[Card], asked: Sequence[Request]) -> Iterator[Update]:
    """Every method's newest card, for the curves and the report; nothing if there was no attack."""
    cards = {card.method: card for card in done}
    if done and cards["undefended"].attack is not None:
        first, *_ = kept = tuple(cards.values())
        yield {"earlier": Earlier(asked[0], form.model, first, kept)}


def opening() -> Update:
    """Buttons switched; earlier results stay, marked stale, until the form has proved usable."""
    return {
        "status": status(tell("status.starting"), pending=True),
        "go": gr.Button(interactive=False),
        "stop": gr.Button(interactive=True),
        "detect": gr.Button(interactive=False),  # they would read the pictures of the run before
    }


def queue(form: Form) -> Update:
    """Every chosen card queued, the others off."""
    words = dict.fromkeys(DEFENSES, "ready") | dict.fromkeys(form.defenses, "queued")
    return {id: placeholder(id, word) for id, word in words.items()}


def show(site: Site, form: Form, done: Sequence[Card], request: Request) -> Update:
    """The update the newest card brings."""
    card, first = done[-1], _undefended(done)
    order = html.class_order(first)
    if card.method != "undefended":
        return {card.method: defence(card, order)} | _next(form, done)
    update: Update = {"undefended": undefended(card, order), "verdict": verdict(card)}
    if _making(done):
        update["status"] = status(tell("status.attacking"), making=True)
        update["download"] = gr.DownloadButton(interactive=False)
    elif sum(c.attack is not None for c in done) == 1:
        assert card.attack is not None
        update |= pictures.made(site.outbox, request.image, card.attack) | _next(form, done)
        update["earlier"] = Earlier(request, form.model, card)
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
    }
    if not done:
        return update
    why = "stopped" if stopped else "not_run"
    finished = {card.method for card in done}
    update |= {id: placeholder(id, why) for id in form.defenses if id not in finished}
    first = _undefended(done)
    if first.attack is None:  # the pictures on the page are of an earlier attack
        update |= pictures.cleared()
        update["undefended"] = undefended(first, html.class_order(first), why)
        update["download"] = gr.DownloadButton(value=None, interactive=False)
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
    said: list[str] = []
    yield gr.skip(), status(tell("status.loading", name=name))
    try:
        backbone = site.worker.call(partial(site.load, name, said.append))
    except DemoError as error:
        yield site.model, status(refused(error), failed=True)
        return
    yield gr.skip(), status(tell("status.loaded", name=name, device=backbone.device))


def _undefended(done: Sequence[Card]) -> Card:
    return [card for card in done if card.method == "undefended"][-1]


def _next(form: Form, done: Sequence[Card]) -> Update:
    finished = {card.method for card in done}
    waiting = [id for id in form.defenses if id not in finished]
    return {waiting[0]: placeholder(waiting[0], "running")} if waiting else {}


def _progress(step: Step, done: Sequence[Card], say: Sequence[str]) -> str:
    if not done:
        return say[-1] if say else tell("status.waiting")
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
    held = sum(card.verdict == "held" for card in judged)
    parts = [tell("done.held", held=held, judged=len(judged))]
    if any(len(card.ladder) > 1 for card in judged):
        parts.append(tell("done.aware", held=sum(not card.broken_by for card in judged)))
    elif knows:
        parts.append(tell("done.no_ball"))
    if missed:
        parts.append(tell("done.missed", missed=missed))
    return tell("done.one", words=joined(*parts))
