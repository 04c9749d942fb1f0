"""The curves of what the page shows: drawn after a run; over the radius when somebody asks."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo import figures
from vlmdefense_demo.curves import PARTS, RADII, Curve, How, check_radius, draw, right_prob
from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.figures import DARK, LIGHT, Theme
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import jobs
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status
from vlmdefense_demo.ui.words import Said, Words, joined, language_of, refused, said, spoken, tell
from vlmdefense_demo.ui.worker import COMPUTE, Step

logger = logging.getLogger(__name__)
Update = tuple[Any, ...]


@dataclass(frozen=True)
class Drawing:
    """One curve over the radius, of what an earlier run showed."""

    how: How
    request: Request
    earlier: Card
    place: Place

    @property
    def seconds(self) -> float:
        """How long a GPU may take for it."""
        return len(RADII) * jobs.of_request(replace(self.request, rungs=()))

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[Curve]:
        """Draw it."""
        if self.how == "again":
            check_radius(self.request)
        backbone = self.place.load(note)
        yield from draw(
            self.how, self.request, backbone, self.earlier, on_progress=note, should_stop=stopped
        )


@dataclass
class Board:
    """The components of the panel."""

    margin: Any = None
    price: Any = None
    radius: Any = None
    along: Any = None
    again: Any = None
    stop: Any = None
    status: Any = None


def board(earlier: Earlier | None) -> Board:
    """The panel, closed until someone opens it, with the figures of the first paint's story."""
    it = Board()
    margin, price, radius = figures_of(earlier)
    with gr.Accordion(tell("curves"), open=False, elem_id="curves"):
        with gr.Row(elem_id="charts"):
            it.margin = gr.HTML(margin, elem_id="chart-margin", min_width=300)
            it.price = gr.HTML(price, elem_id="chart-price", min_width=300)
            it.radius = gr.HTML(radius, elem_id="chart-radius", min_width=300)
        gr.HTML(said(lambda words: f'<p class="vd-caption">{words("curves.note")}</p>'))
        with gr.Row(elem_id="curve-buttons"):
            small: dict[str, Any] = {"size": "sm", "elem_classes": "tool", "min_width": 120}
            it.along = gr.Button(tell("curves.along"), elem_id="along", **small)
            radii = ", ".join(map(str, RADII))
            it.again = gr.Button(tell("curves.again", radii=radii), elem_id="again", **small)
            it.stop = gr.Button(tell("stop"), interactive=False, elem_id="curve-stop", **small)
        it.status = gr.HTML("", elem_id="curve-status")
    return it


def connect(it: Board, earlier: Any, site: Site) -> None:
    """Attach the panel's events; `earlier` is the state that holds what the page shows."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    out = [it.radius, it.status, it.along, it.again, it.stop, earlier]

    def asked(how: How) -> Callable[..., Iterator[Update]]:
        def start(shown: Earlier | None, request: gr.Request) -> Iterator[Update]:
            words = language_of(request)
            for update in over_radii(site, shown, how, f"{request.session_hash}/curve"):
                yield spoken(update, words)

        return start

    def after(shown: Earlier | None, request: gr.Request) -> Any:
        return spoken(after_a_run(shown), language_of(request))

    def stop(request: gr.Request) -> None:
        site.worker.stop(f"{request.session_hash}/curve")

    for how, button in (("along", it.along), ("again", it.again)):
        button.click(asked(how), earlier, out, **COMPUTE, **hidden)  # type: ignore[arg-type]
    it.stop.click(stop, queue=False, **hidden)
    earlier.change(after, earlier, [it.margin, it.price, it.radius], **hidden)


def after_a_run(earlier: Earlier | None) -> tuple[Any, Any, Any]:
    """The figures of other cards; a curve over the radius goes with the run it was drawn of."""
    if earlier and earlier.curves:  # only a curve is new
        return gr.skip(), gr.skip(), gr.skip()
    return figures_of(earlier)


def figures_of(earlier: Earlier | None) -> tuple[str, str, str]:
    """The attack step by step, the price, and what stands in place of a curve over the radius."""
    if earlier is None:
        return _words("curves.first"), "", ""
    if not earlier.cards:
        return _words("caption.later"), "", ""
    return _margin(earlier.card), _price(earlier.cards), _words("curves.press")


def over_radii(site: Site, earlier: Earlier | None, how: How, session: str) -> Iterator[Update]:
    """Stream one curve: (figure, status, both buttons, stop, what the page shows)."""
    if earlier is None or not earlier.cards or earlier.sheet.left:
        yield _state(tell("curves.first" if earlier is None else "caption.later"))
        return
    before = dict(earlier.sheet.settings)
    yield _state(tell("status.starting"), running=True)
    curve: Curve | None = None

    drawing = Drawing(how, earlier.request, earlier.card, site.at(earlier.model))
    try:
        for event in site.worker.stream(session, drawing):
            if not isinstance(event, Step):
                curve = event
            done = len(curve.eps) if curve else 0
            most = len(RADII) + 1 if how == "again" else PARTS + 1
            yield _state(tell("curves.progress", done=done, most=most), running=True)
    except DemoError as error:
        yield _state(refused(error), failed=not isinstance(error, Cancelled))
        return
    except Exception:
        logger.exception("a curve failed")
        yield _state(tell("status.broke"), failed=True)
        return
    if earlier.sheet.left or earlier.sheet.settings != before:
        yield _state(tell("curves.gone"))
        return
    assert curve is not None
    left = tell("curves.left", titles=", ".join(curve.failed)) if curve.failed else ""
    earlier.sheet.curves = (*(c for c in earlier.sheet.curves if c.how != how), curve)
    yield _state(tell("curves.drawn", left=left), _radius(curve), earlier=earlier.newest())


def _state(
    text: str,
    figure: Any = None,
    *,
    running: bool = False,
    failed: bool = False,
    earlier: Any = None,
) -> Update:
    return (
        gr.skip() if figure is None else figure,
        status(text, failed=failed),
        gr.Button(interactive=not running),
        gr.Button(interactive=not running),
        gr.Button(interactive=running),
        gr.skip() if earlier is None else earlier,
    )


def _margin(card: Card) -> str:
    report = card.attack
    assert report is not None
    if len(report.margins) < 2:
        return _words("curves.no_steps")
    over = next((i for i, m in enumerate(report.margins) if m > 0), None)
    reached = tell("curves.never") if over is None else tell("curves.over", steps=over)
    start, end = (f"{report.margins[i]:.1f}" for i in (0, -1))
    alt = tell("curves.margin.alt", start=start, end=end, reached=reached)
    caption = tell("curves.margin.target" if report.targeted else "curves.margin")
    return _figure(lambda theme: figures.margins(report, theme), alt, caption)


def _price(cards: Sequence[Card]) -> str:
    spots = [
        tell(
            "curves.spot", title=_title(c.title), time=f"{1000 * c.cost.seconds:.0f}",
            clean=f"{right_prob(c.clean, c.right):.0%}",
            attacked=f"{right_prob(c.attacked, c.right):.0%}",
        )
        for c in cards
        if c.attacked and c.clean and c.cost
    ]  # fmt: skip
    caption = tell("curves.price", device=cards[0].device)
    alt = tell("curves.price.alt", spots=_listed(spots))
    return _figure(lambda theme: figures.price(cards, theme), alt, caption)


def _radius(curve: Curve) -> str:
    lines = [
        joined(_title(x.title), " ", ", ".join(f"{p:.0%}" for p in x.probs)) for x in curve.lines
    ]
    radii = ", ".join(f"{eps:g}" for eps in curve.eps)
    alt = tell("curves.radius.alt", radii=radii, lines=_listed(lines))
    return _figure(
        lambda theme: figures.radius(curve, theme), alt, tell(f"curves.{curve.how}.about")
    )


def _title(title: str) -> str:
    """A method's name; that of the undefended model is a word of the page."""
    return tell("undefended") if title == "Undefended" else title


def _listed(texts: Sequence[str]) -> Said:
    return said(lambda words: "; ".join(str(words.say(text)) for text in texts))


def _figure(drawn: Callable[[Theme], bytes | None], alt: str, caption: str) -> str:
    """A figure in both themes, of which the page's own is shown; what is drawn is English."""
    images = []
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        png = drawn(theme)
        if png is None:
            return ""
        data = b64encode(png).decode()
        images.append((name, f'src="data:image/png;base64,{data}"'))

    def figure(words: Words) -> str:
        shown = "".join(
            f'<img class="on-{name}" alt="{escape(words.say(alt))}" {source}>'
            for name, source in images
        )
        return (
            f'<figure class="vd-chart result">{shown}<figcaption class="vd-caption">'
            f"{escape(words.say(caption))}</figcaption></figure>"
        )

    return said(figure)


def _words(key: str) -> Said:
    return said(lambda words: f'<p class="vd-chart vd-caption">{escape(words(key))}</p>')
