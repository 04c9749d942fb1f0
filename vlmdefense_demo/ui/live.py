"""A defence's setting was moved: its card again, on the picture and the file of the last run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from vlmdefense_demo.engine import redefend
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.stories.say import several
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import jobs
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.pipeline import SLOT, slot
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import defence, placeholder, status
from vlmdefense_demo.ui.words import joined, refused, said, tell


@dataclass(frozen=True)
class Again:
    """The defences of a request, on the file an earlier run of it made."""

    request: Request
    earlier: Card
    place: Place

    @property
    def seconds(self) -> float:
        """How long a GPU may take for it."""
        return jobs.of_request(replace(self.request, attack=None, rungs=()))

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[Card]:
        """Run them; they take too little for Stop."""
        yield from redefend(self.request, self.place.load(note), self.earlier)


def again(
    site: Site, earlier: Earlier | None, id: str, values: Mapping[str, Any]
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The card of one defence at new settings, that of the pipeline it is in, status, what ran.

    Nothing happens before the first run.
    """
    skip = gr.skip()
    if earlier is None or earlier.story or earlier.sheet.left:
        # The card of a story stays as it is, and stale, until it is run.
        waits = bool(earlier and earlier.story)
        yield skip, skip, status(tell("status.set", title=entry(id).title), pending=waits), skip
        return
    moved = dict(_moved(earlier.newest().request.defenses, id, values))
    if not moved:
        yield skip, skip, skip, skip
        return
    yield *_shown({key: placeholder(key, "running") for key in moved}), skip, skip
    request = replace(earlier.request, defenses=moved)

    try:
        cards = site.worker.collect(Again(request, earlier.card, site.at(earlier.model)))
    except DemoError as error:
        failed = {key: placeholder(key, "not_run", str(error)) for key in moved}
        if not earlier.sheet.left:
            yield *_shown(failed), status(refused(error), failed=True), skip
        return
    if earlier.sheet.left:  # another run came first, and its cards stand there by now
        return
    titles = [entry(key).title for key in moved]
    sentence = tell("status.again", titles=said(lambda words: several(titles, words)))
    if earlier.request.rungs:
        sentence = joined(sentence, tell("status.later"))
    order = html.class_order(earlier.card)
    done = {card.method: defence(card, order) for card in cards}
    earlier.sheet.moved |= {card.method: card for card in cards}
    earlier.sheet.settings |= moved
    earlier.sheet.curves = ()
    yield *_shown(done), status(sentence), earlier.newest()


def _moved(
    ran: Mapping[str, Mapping[str, Any]], id: str, values: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What ran with this defence in it, at its new settings."""
    for key, before in ran.items():
        if key == id:
            yield key, dict(values)
        elif id in (row.id for row in entry(key).rows):
            yield key, {**before, **{f"{id}_{name}": value for name, value in values.items()}}


def _shown(cards: Mapping[str, str]) -> tuple[Any, Any]:
    """The card of the defence itself, and of the pipeline; what did not run stays as it is."""
    by_slot = {slot(key) == SLOT: value for key, value in cards.items()}
    return by_slot.get(False, gr.skip()), by_slot.get(True, gr.skip())
