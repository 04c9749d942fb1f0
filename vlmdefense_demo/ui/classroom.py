"""Train a prompt defence on a few pictures, on the page: fields, progress, and what comes out."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from vlmdefense_demo.errors import Cancelled, DemoError, InvalidImage, InvalidLabels
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.run import Meter, Progress, Run
from vlmdefense_demo.training.classroom import TITLES, Homework, teach
from vlmdefense_demo.training.photos import random_crop
from vlmdefense_demo.ui import figures
from vlmdefense_demo.ui.examples import examples
from vlmdefense_demo.ui.jobs import MANY, Place
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status
from vlmdefense_demo.ui.words import Said, refused, said, tell
from vlmdefense_demo.ui.worker import Step

logger = logging.getLogger(__name__)
CLASSES, CROPS, CROP_SIDE = 5, 4, 256
Update = tuple[Any, ...]
Trace = dict[str, list[Any]]


@dataclass(frozen=True)
class Training:
    """One training: yields its losses, then the learned prompt.

    Args:
        trace: filled step by step, for who shares this process; a fork fills a copy.
    """

    work: Homework
    place: Place
    trace: Trace
    seconds: float = MANY

    def __call__(
        self, note: Progress, stopped: Callable[[], bool]
    ) -> Iterator[tuple[float, ...] | LearnedContext]:
        """Train."""
        backbone = self.place.load(note)
        run = Run(
            self.work.seed, path="/classroom", meter=Meter(backbone.device), on_progress=note,
            should_stop=stopped, trace=self.trace,
        )  # fmt: skip
        for learned in teach(self.work, backbone, run):
            yield tuple(float(value) for value in self.trace.get("loss", ()))
            yield replace(learned, context=learned.context.cpu())


@dataclass
class Desk:
    """The trainer's components."""

    method: Any = None
    names: list[Any] = field(default_factory=list)
    files: list[Any] = field(default_factory=list)
    fill: Any = None
    train: Any = None
    stop: Any = None
    forget: Any = None
    status: Any = None
    curve: Any = None

    def inputs(self) -> list[Any]:
        """What shapes a training."""
        return [self.method, *self.names, *self.files]


def desk() -> Desk:
    """The fields, closed until someone opens them."""
    it = Desk()
    with gr.Accordion(tell("class"), open=False, elem_id="classroom"):
        gr.HTML(said(lambda words: f'<p class="vd-caption">{words("class.note")}</p>'))
        with gr.Row():
            for i in range(CLASSES):
                with gr.Column(min_width=150):
                    name = tell("class.name", number=i + 1)
                    it.names.append(gr.Textbox(label=name, elem_id=f"class-{i}"))
                    it.files.append(
                        gr.File(
                            file_count="multiple",
                            file_types=["image"],
                            height=150,
                            label=tell("class.pictures"),
                            elem_id=f"files-{i}",
                        )
                    )
        with gr.Row(elem_id="teach"):
            it.method = gr.Radio(
                [(title, id) for id, title in TITLES.items()], value="apt",
                label=tell("class.method"),
                elem_id="teach-method", scale=2,
            )  # fmt: skip
            it.fill = gr.Button(tell("class.fill"), elem_id="teach-fill", scale=2)
            it.train = gr.Button(
                tell("class.train"), variant="primary", elem_id="teach-go", scale=2
            )
            it.stop = gr.Button(tell("stop"), interactive=False, elem_id="teach-stop", scale=1)
            it.forget = gr.Button(
                tell("class.forget"), interactive=False, elem_id="teach-forget", scale=1
            )
        it.status = gr.HTML("", elem_id="teach-status")
        it.curve = gr.HTML("", elem_id="teach-curve")
    return it


def example_classes(site: Site) -> list[Any]:
    """Names and files of the example photos: four crops of each of five."""
    chosen = examples()[:CLASSES]
    files = []
    for example in chosen:
        picture = Image.open(example.path).convert("RGB")
        crops = []
        for i in range(CROPS):
            generator = torch.Generator().manual_seed(i)
            pixels = random_crop(picture, CROP_SIDE, generator).permute(1, 2, 0) * 255
            buffer = io.BytesIO()
            Image.fromarray(pixels.round().byte().numpy()).save(buffer, "PNG")
            crops.append(site.outbox.put(buffer.getvalue(), f"{example.answer}-{i}.png"))
        files.append(crops)
    empty = CLASSES - len(chosen)
    return [*(e.answer for e in chosen), *[""] * empty, *files, *[None] * empty]


def homework(method: str, names: Sequence[str], files: Sequence[Sequence[str] | None]) -> Homework:
    """The form as what the trainer takes; classes of one name are put together.

    Raises:
        InvalidLabels: a class has pictures and no name.
        InvalidImage: a file is not there any more.
    """
    classes: dict[str, list[tuple[str, bytes]]] = {}
    for number, (name, paths) in enumerate(zip(names, files, strict=True), 1):
        if (name or "").strip():
            classes.setdefault(name.strip(), []).extend(map(_opened, paths or ()))
        elif paths:
            raise InvalidLabels(f"Class {number} has pictures and no name.", "Name it.")
    return Homework(method, classes)


def _opened(path: str) -> tuple[str, bytes]:
    try:
        return Path(path).name, Path(path).read_bytes()
    except OSError as error:  # deleted, as all files of the page are after a while
        raise InvalidImage(
            f"The file {Path(path).name} cannot be read.", "Choose another one."
        ) from error


def learn(
    site: Site,
    model: str,
    asked: Callable[[], Homework],
    learned: Mapping[str, LearnedContext],
    session: str,
) -> Iterator[Update]:
    """Stream one training: (status, curve, train, stop, forget, learned prompts).

    Args:
        asked: makes the homework, or says why there is none.
    """
    try:
        work = asked()
    except DemoError as error:
        yield _state(refused(error), failed=True, kept=bool(learned))
        return
    title = TITLES[work.method]
    trace: Trace = {}
    yield _state(tell("class.starting", title=title), running=True, kept=bool(learned))

    try:
        for event in site.worker.stream(session, Training(work, site.at(model), trace)):
            if isinstance(event, Step):
                yield _state(
                    _progress(title, event), _curve(trace), running=True, kept=bool(learned)
                )
                continue
            if isinstance(event, tuple):
                trace["loss"] = list(event)
                continue
            about = {note.title: note.value for note in event.notes}
            sentence = tell("class.done", title=title, cost=_cost(about["training cost"]))
            yield _state(
                sentence, _curve(trace), kept=True, learned={**learned, work.method: event}
            )
    except Cancelled:
        yield _state(tell("class.stopped"), kept=bool(learned))
    except DemoError as error:
        yield _state(refused(error), failed=True, kept=bool(learned))
    except Exception:
        logger.exception("a training failed")
        yield _state(tell("class.broke"), failed=True, kept=bool(learned))


def _cost(passes: str) -> Said:
    """What a training says it cost; "text" is the one word in it."""
    return said(lambda words: passes.replace("text", words("cost.text")))


def forget() -> Update:
    """Back to the prompts that ship with the model."""
    return _state(tell("class.forgotten"), kept=False, learned={})


def _state(
    text: str,
    curve: Any = None,
    *,
    running: bool = False,
    failed: bool = False,
    kept: bool = False,
    learned: Any = None,
) -> Update:
    return (
        status(text, failed=failed),
        gr.skip() if curve is None else curve,
        gr.Button(interactive=not running),
        gr.Button(interactive=running),
        gr.Button(interactive=kept and not running),
        gr.skip() if learned is None else learned,
    )


def _progress(title: str, step: Step) -> Said:
    if not step.total:
        return tell("class.waiting", title=title)
    key = "class.attacking" if "bank" in step.method else "class.learning"
    return tell(key, title=title, done=step.done + 1, total=step.total)


def _curve(trace: Trace) -> str:
    losses = [float(value) for value in trace.get("loss", ())]
    if len(losses) < 2:
        return ""
    steps = list(range(1, len(losses) + 1))
    return said(
        lambda words: figures.plot(
            steps,
            [("loss", losses)],
            words("class.curve"),
            max(losses),
            {"loss": words("class.loss")},
        )
    )
