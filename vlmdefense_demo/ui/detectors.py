"""The panel below the cards: what every detector says about the two pictures that are shown.

Nothing is computed before its button is pressed, and then on the files of the last run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo.alarms import Reading, read
from vlmdefense_demo.detectors.drift import CURVE, DriftDetector, crossover
from vlmdefense_demo.detectors.thresholds import Calibrated, Calibration, Share, calibrated, roc
from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.survey import detector, entry, methods
from vlmdefense_demo.types import Card, Note
from vlmdefense_demo.ui import gauges
from vlmdefense_demo.ui.cards import cost_line, header, waiting_chip
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status, unread
from vlmdefense_demo.ui.words import ENGLISH, Words, joined, refused, said, tell
from vlmdefense_demo.ui.worker import Step

logger = logging.getLogger(__name__)
Update = tuple[Any, Any]
WAITING = tell("status.waiting")


@dataclass(frozen=True)
class Watching:
    """Every detector, on the pictures of an earlier run."""

    request: Request
    earlier: Card
    place: Place
    seconds: float = 15.0

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[Reading]:
        """Read them."""
        backbone = self.place.load(note)
        yield from read(self.request, backbone, self.earlier, on_progress=note, should_stop=stopped)


@dataclass
class Panel:
    """The components of the panel."""

    go: Any = None
    stop: Any = None
    shown: Any = None


def panel() -> Panel:
    """The closed panel, with nothing read."""
    it = Panel()
    with gr.Accordion(tell("detectors"), open=False, elem_id="detectors"):
        gr.HTML(said(lambda words: f'<p class="vd-caption">{words("detectors.note")}</p>'))
        with gr.Row():
            it.go = gr.Button(tell("detectors.go"), elem_id="detect-go", scale=2)
            it.stop = gr.Button(tell("stop"), interactive=False, elem_id="detect-stop", scale=1)
        it.shown = gr.HTML(unread(), elem_id="readings")
    return it


def session(name: str) -> str:
    """The worker's name of a page's detectors, whose Stop stops nothing else."""
    return f"{name}/detectors"


def watch(site: Site, earlier: Earlier | None, name: str) -> Iterator[Update]:
    """Stream the readings of the last run's pictures: (panel, stop button)."""
    if earlier is None:
        yield status(tell("detectors.first")), gr.skip()
        return
    done: list[Reading] = []
    reading = Watching(earlier.request, earlier.card, site.at(earlier.model))

    def shown(text: str, failed: bool = False, running: bool = True) -> Update:
        found, model = tuple(done), earlier.model
        grid = said(lambda words: readings(found, model, running, words))
        return joined(status(text, failed=failed), grid), gr.Button(interactive=running)

    sentence: str = WAITING
    yield shown(sentence)
    try:
        for event in site.worker.stream(session(name), reading):
            if earlier.sheet.left:  # a story was chosen: these are not its pictures
                yield gr.skip(), gr.Button(interactive=False)
                return
            if isinstance(event, Reading):
                done.append(event)
            elif sentence == _progress(event, done):
                yield gr.skip(), gr.skip()  # nothing new; a closed page is noticed here
                continue
            sentence = _progress(event, done)
            yield shown(sentence)
    except DemoError as error:
        yield shown(refused(error), failed=not isinstance(error, Cancelled), running=False)
    except Exception:
        logger.exception("the detectors failed")
        yield shown(tell("detectors.broke"), failed=True, running=False)
    else:
        yield shown(_summary(done, earlier.model), running=False)


def _progress(event: Reading | Step, done: Sequence[Reading]) -> str:
    started = done or isinstance(event, Reading) or event.total
    return tell("detectors.reading") if started else WAITING


def readings(
    done: Sequence[Reading], model: str, running: bool = False, words: Words = ENGLISH
) -> str:
    """All detectors as a grid of cards; those still to come are named."""
    found, measured = {r.detector: r for r in done}, calibrated(model)
    cards = []
    for id in methods("detector"):
        if id in found:
            cards.append(card(found[id], measured, words))
        else:
            state = "running" if len(cards) == len(done) else "queued"
            cards.append(_placeholder(id, state if running else "not_run", words))
    return f'<div class="readings">{"".join(cards)}</div>'


def card(reading: Reading, measured: Calibrated | None, words: Words = ENGLISH) -> str:
    """One detector: gauge, curve, what its threshold is worth, how it is evaded."""
    row = entry(reading.detector, "detector")
    kind, known = detector(row), reading.calibration
    if reading.error:
        body = f'<p class="error">{escape(words.refusals(reading.error))}</p>'
        chip = f'<span class="chip failed">{words("did_not_run")}</span>'
        return _article(row.id, chip, body)
    before, after = reading.words() or ("", "")
    rows = [
        (words("clean"), reading.clean, before),
        (words("attacked"), reading.attacked, after),
    ]
    threshold = known.threshold if known else None
    body = (
        f'<p class="hint">{words.english(row.idea)}</p>'
        f'<p class="measure">{words.english(kind.measure)}</p>'
        + gauges.gauge(row.title, rows, kind.top, threshold, words)
        + cost_line(reading.cost, None, escape(reading.device), words)
        + "".join(_curve(note, words) for note in reading.notes)
        + (_worth(known, measured, words) if known and measured else "")
        + _more(reading, words)
    )
    return _article(row.id, "", body)


def _article(id: str, chip: str, body: str) -> str:
    title = escape(entry(id).title)
    return f'<article class="card none" aria-label="{title}">{header(id, chip)}{body}</article>'


def _placeholder(id: str, state: str, words: Words) -> str:
    hint = f'<p class="hint">{words.english(entry(id).idea)}</p>'
    return _article(id, waiting_chip(words(state)), hint)


def _curve(note: Note, words: Words) -> str:
    if note.title != CURVE:
        return ""
    x, clean, attacked = (note.value[name] for name in ("x", "clean", "attacked"))
    at = DriftDetector().amplitude * LEVELS
    return gauges.drift(x, clean, attacked, crossover(x, clean, attacked), at, words)


def _worth(known: Calibration, measured: Calibrated, words: Words) -> str:
    """The curve of the photos that ship, and what was measured on many others."""
    last = known.against[-1]
    pairs = roc(known.clean, known.attacked)
    lines: list[gauges.Line] = [
        ("pairs", words("worth.pairs", n=len(known.clean), eps=f"{last.eps:g}"), pairs)
    ]
    lines += [
        (f"radius{i}", words("worth.radius", n=a.detected.n, eps=f"{a.eps:g}"), a.roc)
        for i, a in enumerate(known.against)
    ]
    facts = [(words("worth.clean"), _rate(known.false_alarms, words))]
    facts += [
        (
            words("worth.attacked", eps=f"{a.eps:g}"),
            f"{_rate(a.detected, words)} · AUC {a.auc:.3f}",
        )
        for a in known.against
    ]
    if known.knowing is not None:
        tried = words("worth.tried", rate=_rate(known.knowing, words), tried=known.tried)
        facts.append((words("worth.knows", eps=f"{last.eps:g}"), tried))
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    title = words("roc.title", lines=", ".join(name for _, name, _ in lines))
    note = words("worth.note", n=known.n, date=measured.date)
    return (
        f'<div class="worth">{gauges.roc(lines, title, words)}<div><dl>{rows}</dl>'
        f'<p class="vd-caption">{escape(note)}</p></div></div>'
    )


def _rate(share: Share, words: Words) -> str:
    """ "99 % [94, 100] of 100" """
    rate, low, high = (f"{100 * p:.0f}" for p in (share.hits / share.n, share.low, share.high))
    return words("worth.rate", rate=rate, low=low, high=high, n=share.n)


def _more(reading: Reading, words: Words) -> str:
    """The disclosure: parts of the score, and what an attacker who knows does."""
    row = entry(reading.detector, "detector")
    facts = "".join(
        f"<dt>{words('worth.part', title=words.english(note.title))}</dt><dd>{note.value:.3f}</dd>"
        for note in reading.notes
        if note.kind == "number"
    )
    evasion = f"<p><b>{words('card.aware')}</b>: {words.english(detector(row).evasion)}</p>"
    return (
        f'<details class="more"><summary>{words("detectors.evaded")}</summary>'
        f"{f'<dl>{facts}</dl>' if facts else ''}{evasion}</details>"
    )


def _summary(done: Sequence[Reading], model: str) -> str:
    """Alarms in words; without thresholds there are none to count, and it says why."""
    words = [r.words() for r in done if r.error is None]
    judged = [w for w in words if w is not None]
    if not judged:
        return tell("detectors.none", model=model)
    alarms = sum(attacked == "alarm" for _, attacked in judged)
    false = sum(clean == "false alarm" for clean, _ in judged)
    return tell("detectors.done", alarms=alarms, judged=len(judged), false=false)
