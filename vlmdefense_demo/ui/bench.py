"""A small benchmark on the page: the ticked defences on many pictures, with a table that grows."""

from __future__ import annotations

import logging
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import gradio as gr

from vlmdefense_demo.benchmark import figures, tables
from vlmdefense_demo.benchmark.measure import measuring
from vlmdefense_demo.benchmark.plan import UNDEFENDED, Plan, Setting
from vlmdefense_demo.benchmark.rows import Row, Rows, read_rows
from vlmdefense_demo.benchmark.sources import BUNDLED_NAME, check_zip, read_source
from vlmdefense_demo.benchmark.tasks import N_LABELS, tasks
from vlmdefense_demo.benchmark.worlds import WORLDS, elsewhere
from vlmdefense_demo.errors import Cancelled, DemoError, InvalidImage, InvalidParameter
from vlmdefense_demo.ladder import INTERACTIVE
from vlmdefense_demo.run import Progress
from vlmdefense_demo.spec import shown
from vlmdefense_demo.ui import results
from vlmdefense_demo.ui.jobs import MANY, Place
from vlmdefense_demo.ui.page import Controls
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.telling import status
from vlmdefense_demo.ui.words import language_of, refused, said, spoken, tell
from vlmdefense_demo.ui.worker import COMPUTE, Step

logger = logging.getLogger(__name__)
MOST = 64
RADII = (1, 2, 4)
BUDGET = replace(INTERACTIVE, adaptive_steps=10, draws=2)
BUNDLED, ZIP = SOURCES = ("bundled", "zip")
MOST_BYTES = 256 * 2**20  # of a zip's pictures, unpacked
Update = tuple[Any, ...]


@dataclass
class Bench:
    """The components of the tab."""

    source: Any = None
    file: Any = None
    photos: Any = None
    eps: Any = None
    knows: Any = None
    worlds: Any = None
    go: Any = None
    stop: Any = None
    status: Any = None
    table: Any = None
    rows: Any = None
    csv: Any = None

    def asked(self) -> list[Any]:
        """What shapes a measurement."""
        return [self.source, self.file, self.photos, self.eps, self.knows, self.worlds]

    def shown(self) -> list[Any]:
        """What a measurement changes."""
        return [self.status, self.table, self.go, self.stop, self.rows, self.csv]


@dataclass(frozen=True)
class Asked:
    """The tab's controls as plain values.

    Args:
        file: path of an uploaded zip, None for the photos that ship with the dependencies.
        defenses: id -> parameters in display units.
        worlds: where else the same pictures are asked about.
    """

    file: str | None
    photos: int
    eps: tuple[float, ...]
    knows: bool
    defenses: Mapping[str, Mapping[str, Any]]
    worlds: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """What is measured.

        Raises:
            InvalidParameter: no radius, or a setting that cannot be.
        """
        found = [Setting(id, _moved(id, values)) for id, values in self.defenses.items()]
        for setting in found:
            setting.build()
        knows = ("adaptive",) if self.knows else ()
        steps = ("clean", "transfer", *knows, "latency")
        return Plan((Setting(UNDEFENDED), *found), self.eps, steps=steps, budget=BUDGET)


def _moved(id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults: only those are worth a name in the table."""
    usual = shown(Setting(id).build())
    return {name: value for name, value in values.items() if value != usual.get(name)}


@dataclass(frozen=True)
class Measurement:
    """What was asked for, measured: yields how many parts are done, of how many.

    Args:
        rows: a file, because everything that was measured before Stop is kept.
    """

    asked: Asked
    rows: Path
    place: Place
    seconds: float = MANY

    def __call__(self, note: Progress, stopped: Callable[[], bool]) -> Iterator[tuple[int, int]]:
        """Measure."""
        plan, backbone = self.asked.plan(), self.place.load(note)
        source = read_source(self.asked.file or BUNDLED_NAME)
        home = tasks(source.pictures, self.asked.photos)
        far = [t for world in self.asked.worlds for t in elsewhere(world, home, backbone, N_LABELS)]
        total = (len(home) + len(far)) * len(plan.groups())
        rows = Rows(self.rows)
        parts = chain(
            measuring(plan, backbone, home, rows, stopped),
            measuring(plan.abroad(), backbone, far, rows, stopped),
        )
        for done, _ in enumerate(parts, 1):
            yield done, total


def tab() -> Bench:
    """The tab, with nothing measured."""
    it = Bench()
    gr.HTML(said(lambda words: f'<p class="vd-caption">{words("bench.note")}</p>'))
    with gr.Row(elem_id="bench-asked"):
        it.source = gr.Radio(
            [(tell(f"bench.{source}"), source) for source in SOURCES],
            value=BUNDLED,
            label=tell("bench.pictures"),
            elem_id="bench-source",
        )
        it.file = gr.File(
            file_types=[".zip"], label="zip", height=110, visible=False, elem_id="bench-file"
        )
        it.photos = gr.Slider(
            2, MOST, 8, step=1, label=tell("bench.many"), min_width=240, elem_id="bench-photos"
        )
        it.eps = gr.CheckboxGroup(
            [str(e) for e in RADII], value=["1", "4"], label=tell("eps"), elem_id="bench-eps"
        )
        it.knows = gr.Checkbox(False, label=tell("bench.aware"), elem_id="bench-knows")
    it.worlds = gr.CheckboxGroup(
        [(tell(f"world.{world}"), world) for world in WORLDS],
        label=tell("bench.worlds"),
        info=tell("bench.worlds.info"),
        elem_id="bench-worlds",
    )
    with gr.Row():
        it.go = gr.Button(tell("bench.go"), elem_id="bench-go", scale=2)
        it.stop = gr.Button(tell("stop"), interactive=False, elem_id="bench-stop", scale=1)
    it.status = gr.HTML("", elem_id="bench-status")
    it.table = gr.HTML("", elem_id="bench-table")
    with gr.Row():
        it.csv = gr.DownloadButton(
            tell("bench.csv"), interactive=False, size="sm", elem_id="bench-csv"
        )
        it.rows = gr.DownloadButton(
            tell("bench.rows"), interactive=False, size="sm", elem_id="bench-rows"
        )
    return it


def connect(page: Controls, site: Site) -> None:
    """Attach the tab's events."""
    it = page.bench
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def start(values: Mapping[Any, Any], request: gr.Request) -> Iterator[Update]:
        words = language_of(request)
        try:
            wanted = asked([values[widget] for widget in it.asked()], page.form(values).defenses)
        except DemoError as error:
            yield spoken(_said(refused(error), failed=True), words)
            return
        session = f"{request.session_hash}/bench"
        for update in measured(site, values[page.model], wanted, session):
            yield spoken(update, words)

    def stop(request: gr.Request) -> None:
        site.worker.stop(f"{request.session_hash}/bench")

    it.source.input(
        lambda source: gr.update(visible=source == ZIP),
        it.source,
        it.file,
        queue=False,
        **hidden,
    )
    it.go.click(start, {*it.asked(), *page.inputs()}, it.shown(), **COMPUTE, **hidden)
    it.stop.click(stop, queue=False, **hidden)


def measured(site: Site, model: str, asked: Asked, session: str) -> Iterator[Update]:
    """Stream one measurement: status, table, both buttons, both files."""
    yield _said(tell("bench.reading"), running=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        sentence, failed = tell("done"), False
        try:
            for event in site.worker.stream(session, Measurement(asked, rows, site.at(model))):
                if isinstance(
                    event, Step
                ):  # Gradio closes a page that was left at what it is given
                    yield (gr.skip(),) * 6
                else:
                    done, total = event
                    so_far = tell("bench.progress", done=done, total=total)
                    yield _state(so_far, results.grown(read_rows(rows)), running=True)
        except DemoError as error:
            sentence, failed = refused(error), not isinstance(error, Cancelled)
        except Exception:
            logger.exception("a measurement failed")
            sentence, failed = tell("status.broke"), True
        yield _end(site, read_rows(rows), rows, sentence, failed)


def _end(site: Site, rows: Sequence[Row], file: Path, sentence: str, failed: bool) -> Update:
    """What was measured up to here, with its figures and files; without anything, what was before."""
    if not rows:
        return _said(sentence, failed=failed)
    files = figures.write(rows, file.parent)
    drawn = {path.stem: b64encode(path.read_bytes()).decode() for path in files}
    csv = site.outbox.put(tables.csv_text(rows).encode(), "benchmark.csv")
    jsonl = site.outbox.put(file.read_bytes(), "benchmark.jsonl")
    return _state(sentence, results.finished(rows, drawn), failed=failed, files=(jsonl, csv))


def _said(text: str, *, running: bool = False, failed: bool = False) -> Update:
    """The line and the buttons; table and files stay those of an earlier measurement."""
    return (
        status(text, failed=failed), gr.skip(), gr.Button(interactive=not running),
        gr.Button(interactive=running), gr.skip(), gr.skip(),
    )  # fmt: skip


def _state(
    text: str,
    body: str,
    *,
    running: bool = False,
    failed: bool = False,
    files: tuple[str | None, str | None] = (None, None),
) -> Update:
    """The same, with a table and its files."""
    line, _, go, stop, *_ = _said(text, running=running, failed=failed)
    downloads = (gr.DownloadButton(value=file, interactive=file is not None) for file in files)
    return (line, body, go, stop, *downloads)


def asked(values: Sequence[Any], defenses: Mapping[str, Mapping[str, Any]]) -> Asked:
    """The tab's controls, checked for what is missing.

    Raises:
        InvalidImage: a zip of one's own is wanted and none is there, or it is too much.
        InvalidParameter: no radius.
    """
    source, file, photos, eps, knows, worlds = values
    if source == ZIP:
        if not file:
            raise InvalidImage("There is no zip.", "Upload one, or take the example photos.")
        check_zip(file, MOST_BYTES)
    if not eps:
        raise InvalidParameter("There is no radius.", "Choose at least one.")
    radii = tuple(sorted(float(e) for e in eps))
    own = file if source == ZIP else None
    return Asked(own, int(photos), radii, bool(knows), defenses, tuple(worlds))
