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
from vlmdefense_demo.ui import gauges, text
from vlmdefense_demo.ui.cards import cost_line, header, waiting_chip
from vlmdefense_demo.ui.handlers import Earlier, Site, status
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.worker import Step

logger = logging.getLogger(__name__)
Update = tuple[Any, Any]
WAITING = "Waiting for the processor …"


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
    with gr.Accordion(text.DETECTORS_TITLE, open=False, elem_id="detectors"):
        gr.HTML(f'<p class="vd-caption">{escape(text.DETECTORS_NOTE)}</p>')
        with gr.Row():
            it.go = gr.Button("Run the detectors", elem_id="detect-go", scale=2)
            it.stop = gr.Button("Stop", interactive=False, elem_id="detect-stop", scale=1)
        it.shown = gr.HTML(text.unread(), elem_id="readings")
    return it


def session(name: str) -> str:
    """The worker's name of a page's detectors, whose Stop stops nothing else."""
    return f"{name}/detectors"


def watch(site: Site, earlier: Earlier | None, name: str) -> Iterator[Update]:
    """Stream the readings of the last run's pictures: (panel, stop button)."""
    if earlier is None:
        yield status("There is nothing to read yet: press “Attack & defend” first."), gr.skip()
        return
    done: list[Reading] = []
    reading = Watching(earlier.request, earlier.card, site.at(earlier.model))

    def shown(sentence: str, failed: bool = False, running: bool = True) -> Update:
        grid = readings(done, earlier.model, running)
        return status(sentence, failed=failed) + grid, gr.Button(interactive=running)

    words = WAITING
    yield shown(words)
    try:
        for event in site.worker.stream(session(name), reading):
            if isinstance(event, Reading):
                done.append(event)
            elif words == _progress(event, done):
                yield gr.skip(), gr.skip()  # nothing new; a closed page is noticed here
                continue
            words = _progress(event, done)
            yield shown(words)
    except DemoError as error:
        yield shown(str(error), failed=not isinstance(error, Cancelled), running=False)
    except Exception:
        logger.exception("the detectors failed")
        sentence = "Something broke inside the detectors; the log has the details."
        yield shown(sentence, failed=True, running=False)
    else:
        yield shown(_summary(done, earlier.model), running=False)


def _progress(event: Reading | Step, done: Sequence[Reading]) -> str:
    started = done or isinstance(event, Reading) or event.total
    return "Reading …" if started else WAITING


def readings(done: Sequence[Reading], model: str, running: bool = False) -> str:
    """All detectors as a grid of cards; those still to come are named."""
    found, measured = {r.detector: r for r in done}, calibrated(model)
    cards = []
    for id in methods("detector"):
        if id in found:
            cards.append(card(found[id], measured))
        else:
            words = "running …" if len(cards) == len(done) else "queued"
            cards.append(_placeholder(id, words if running else "not run"))
    return f'<div class="readings">{"".join(cards)}</div>'


def card(reading: Reading, measured: Calibrated | None) -> str:
    """One detector: gauge, curve, what its threshold is worth, how it is evaded."""
    row = entry(reading.detector, "detector")
    kind, known = detector(row), reading.calibration
    if reading.error:
        body = f'<p class="error">{escape(reading.error)}</p>'
        return _article(row.id, '<span class="chip failed">did not run</span>', body)
    words = reading.words() or ("", "")
    rows = [("clean", reading.clean, words[0]), ("attacked", reading.attacked, words[1])]
    body = (
        f'<p class="hint">{escape(row.idea)}</p>'
        f'<p class="measure">{escape(kind.measure)}</p>'
        + gauges.gauge(row.title, rows, kind.top, known.threshold if known else None)
        + cost_line(reading.cost, None, escape(reading.device))
        + "".join(_curve(note) for note in reading.notes)
        + (_worth(known, measured) if known and measured else "")
        + _more(reading)
    )
    return _article(row.id, "", body)


def _article(id: str, chip: str, body: str) -> str:
    title = escape(entry(id).title)
    return f'<article class="card none" aria-label="{title}">{header(id, chip)}{body}</article>'


def _placeholder(id: str, words: str) -> str:
    return _article(id, waiting_chip(words), f'<p class="hint">{escape(entry(id).idea)}</p>')


def _curve(note: Note) -> str:
    if note.title != CURVE:
        return ""
    x, clean, attacked = (note.value[name] for name in ("x", "clean", "attacked"))
    at = DriftDetector().amplitude * LEVELS
    return gauges.drift(x, clean, attacked, crossover(x, clean, attacked), at)


def _worth(known: Calibration, measured: Calibrated) -> str:
    """The curve of the photos that ship, and what was measured on many others."""
    last = known.against[-1]
    pairs = roc(known.clean, known.attacked)
    lines: list[gauges.Line] = [
        ("pairs", f"the {len(known.clean)} example photos, ε {last.eps:g}", pairs)
    ]
    lines += [
        (f"radius{i}", f"{a.detected.n} validation photos, ε {a.eps:g}", a.roc)
        for i, a in enumerate(known.against)
    ]
    facts = [("alarm, clean photos", _rate(known.false_alarms))]
    facts += [
        (f"alarm, attacked, ε {a.eps:g}", f"{_rate(a.detected)} · AUC {a.auc:.3f}")
        for a in known.against
    ]
    if known.knowing is not None:
        words = f"{_rate(known.knowing)} that fool, {known.tried} tried"
        facts.append((f"alarm, attacker knows it, ε {last.eps:g}", words))
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    title = f"ROC of PGD: {', '.join(name for _, name, _ in lines)}"
    return (
        f'<div class="worth">{gauges.roc(lines, title)}<div><dl>{rows}</dl>'
        f'<p class="vd-caption">Threshold from {known.n} other clean photos. 95 % intervals; '
        f"measured {escape(measured.date)}.</p></div></div>"
    )


def _rate(share: Share) -> str:
    """ "99 % [94, 100] of 100" """
    return (
        f"{100 * share.hits / share.n:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] "
        f"of {share.n}"
    )


def _more(reading: Reading) -> str:
    """The disclosure: parts of the score, and what an attacker who knows does."""
    row = entry(reading.detector, "detector")
    facts = "".join(
        f"<dt>{escape(note.title)}, attacked</dt><dd>{note.value:.3f}</dd>"
        for note in reading.notes
        if note.kind == "number"
    )
    return (
        '<details class="more"><summary>How it is evaded</summary>'
        f"{f'<dl>{facts}</dl>' if facts else ''}<p><b>an attacker who knows it</b>: {escape(detector(row).evasion)}</p></details>"
    )


def _summary(done: Sequence[Reading], model: str) -> str:
    """Alarms in words; without thresholds there are none to count, and it says why."""
    words = [r.words() for r in done if r.error is None]
    judged = [w for w in words if w is not None]
    if not judged:
        return (
            f"No threshold yet for {model}, so there are scores and no verdict. Thresholds are made by: "
            f"python -m vlmdefense_demo calibrate --model {model} --images DIR"
        )
    alarms = sum(attacked == "alarm" for _, attacked in judged)
    false = sum(clean == "false alarm" for clean, _ in judged)
    return (
        f"{alarms} of {len(judged)} detectors raise the alarm for the attacked file, {false} for the "
        "clean picture. The attacker did not know them."
    )
