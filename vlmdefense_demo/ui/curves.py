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
from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.figures import DARK, LIGHT, Theme
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.types import Card
from vlmdefense_demo.ui import jobs
from vlmdefense_demo.ui.handlers import Earlier, Site, status
from vlmdefense_demo.ui.jobs import Place
from vlmdefense_demo.ui.worker import Step

logger = logging.getLogger(__name__)
FIRST = "Press “Attack & defend” first; the curves are drawn of what it shows."
NOTE = (
    "The third curve runs every defence that is switched on at up to five radii, so it is drawn when "
    "asked for. Both kinds are of an attacker who does not know the defences."
)
ABOUT: dict[How, str] = {
    "along": "Along this change: the delivered δ made smaller, each value rounded to whole levels. "
    "Nothing is attacked again, so smaller parts are weaker than an attack of that radius.",
    "again": "Attacked again at each radius, with the settings and the seed of the run, each time "
    "against the undefended model; the defences see that file.",
}
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
    with gr.Accordion(
        "Curves: the attack step by step, the price, the radius", open=False, elem_id="curves"
    ):
        with gr.Row(elem_id="charts"):
            it.margin = gr.HTML(margin, elem_id="chart-margin", min_width=300)
            it.price = gr.HTML(price, elem_id="chart-price", min_width=300)
            it.radius = gr.HTML(radius, elem_id="chart-radius", min_width=300)
        gr.HTML(f'<p class="vd-caption">{NOTE}</p>')
        with gr.Row(elem_id="curve-buttons"):
            small: dict[str, Any] = {"size": "sm", "elem_classes": "tool", "min_width": 120}
            it.along = gr.Button("Draw it along this change", elem_id="along", **small)
            words = f"Attack again at {', '.join(map(str, RADII))} of 255"
            it.again = gr.Button(words, elem_id="again", **small)
            it.stop = gr.Button("Stop", interactive=False, elem_id="curve-stop", **small)
        it.status = gr.HTML("", elem_id="curve-status")
    return it


def connect(it: Board, earlier: Any, site: Site) -> None:
    """Attach the panel's events; `earlier` is the state that holds what the page shows."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    out = [it.radius, it.status, it.along, it.again, it.stop, earlier]

    def asked(how: How) -> Callable[..., Iterator[Update]]:
        def start(shown: Earlier | None, request: gr.Request) -> Iterator[Update]:
            yield from over_radii(site, shown, how, f"{request.session_hash}/curve")

        return start

    def stop(request: gr.Request) -> None:
        site.worker.stop(f"{request.session_hash}/curve")

    for how, button in (("along", it.along), ("again", it.again)):
        button.click(asked(how), earlier, out, concurrency_id="compute", **hidden)  # type: ignore[arg-type]
    it.stop.click(stop, queue=False, **hidden)
    earlier.change(after_a_run, earlier, [it.margin, it.price, it.radius], **hidden)


def after_a_run(earlier: Earlier | None) -> tuple[Any, Any, Any]:
    """The figures of other cards; a curve over the radius goes with the run it was drawn of."""
    if earlier and earlier.curves:  # only a curve is new
        return gr.skip(), gr.skip(), gr.skip()
    return figures_of(earlier)


def figures_of(earlier: Earlier | None) -> tuple[str, str, str]:
    """The attack step by step, the price, and what stands in place of a curve over the radius."""
    if earlier is None:
        return _words(FIRST), "", ""
    if not earlier.cards:
        return _words("Drawn once every defence has answered."), "", ""
    margin, price = _margin(earlier.card), _price(earlier.cards)
    return margin, price, _words("The right label over the radius: press a button below.")


def over_radii(site: Site, earlier: Earlier | None, how: How, session: str) -> Iterator[Update]:
    """Stream one curve: (figure, status, both buttons, stop, what the page shows)."""
    if earlier is None or not earlier.cards:
        yield _state(FIRST)
        return
    yield _state("Starting …", running=True)
    curve: Curve | None = None

    drawing = Drawing(how, earlier.request, earlier.card, site.at(earlier.model))
    try:
        for event in site.worker.stream(session, drawing):
            if not isinstance(event, Step):
                curve = event
            done = len(curve.eps) if curve else 0
            most = len(RADII) + 1 if how == "again" else PARTS + 1
            yield _state(f"{done} of at most {most} radii …", running=True)
    except DemoError as error:
        yield _state(str(error), failed=str(error) != "Stopped.")
        return
    except Exception:
        logger.exception("a curve failed")
        words = "Something broke inside the demo; the log has the details."
        yield _state(words, failed=True)
        return
    assert curve is not None
    left = f" No line for {', '.join(curve.failed)}: not possible here." if curve.failed else ""
    curves = (*(c for c in earlier.curves if c.how != how), curve)
    yield _state(
        f"Drawn.{left} One picture: no statistical claim.",
        _radius(curve),
        earlier=replace(earlier, curves=curves),
    )


def _state(
    words: str,
    figure: Any = None,
    *,
    running: bool = False,
    failed: bool = False,
    earlier: Any = None,
) -> Update:
    return (
        gr.skip() if figure is None else figure,
        status(words, failed=failed),
        gr.Button(interactive=not running),
        gr.Button(interactive=not running),
        gr.Button(interactive=running),
        gr.skip() if earlier is None else earlier,
    )


def _margin(card: Card) -> str:
    report = card.attack
    assert report is not None
    if len(report.margins) < 2:
        return _words("The attack step by step: this one has no steps with a margin.")
    over = next((i for i, m in enumerate(report.margins) if m > 0), None)
    reached = f"above 0 after {over} steps" if over is not None else "never above 0"
    alt = (
        f"Margin of the attack: {report.margins[0]:.1f} logits at the start, "
        f"{report.margins[-1]:.1f} at the end, {reached}"
    )
    caption = (
        "The attack step by step: how far ahead of the right answer a wrong one is, in logits, "
        "for the attack's own iterates. All other numbers are of the file, rounded to 8 bits."
    )
    if report.targeted:
        caption = caption.replace("the right answer a wrong one", "all others the target")
    return _figure(lambda theme: figures.margins(report, theme), alt, caption)


def _price(cards: Sequence[Card]) -> str:
    spots = [
        f"{c.title} {1000 * c.cost.seconds:.0f} ms, clean {right_prob(c.clean, c.right):.0%}, "
        f"attacked {right_prob(c.attacked, c.right):.0%}"
        for c in cards
        if c.attacked and c.clean and c.cost
    ]
    caption = (
        f"The price: time for this picture on {cards[0].device}, and what it buys. Cross: what the "
        "strongest attacker who knows the defence left, where one was tried."
    )
    alt = "Probability of the right label against time: " + "; ".join(spots)
    return _figure(lambda theme: figures.price(cards, theme), alt, caption)


def _radius(curve: Curve) -> str:
    lines = (f"{x.title} " + ", ".join(f"{p:.0%}" for p in x.probs) for x in curve.lines)
    radii = ", ".join(f"{eps:g}" for eps in curve.eps)
    alt = f"Probability of the right label at {radii} of 255: " + "; ".join(lines)
    return _figure(lambda theme: figures.radius(curve, theme), alt, ABOUT[curve.how])


def _figure(drawn: Callable[[Theme], bytes | None], alt: str, caption: str) -> str:
    """A figure in both themes, of which the page's own is shown."""
    images = ""
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        png = drawn(theme)
        if png is None:
            return ""
        data = b64encode(png).decode()
        images += f'<img class="on-{name}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    return (
        f'<figure class="vd-chart result">{images}<figcaption class="vd-caption">{escape(caption)}'
        "</figcaption></figure>"
    )


def _words(words: str) -> str:
    return f'<p class="vd-chart vd-caption">{escape(words)}</p>'
