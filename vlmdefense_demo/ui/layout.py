"""The page: image, change and verdict in one row; one strip of controls; the undefended model as
the reference line; the three paradigms as three columns.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from vlmdefense_demo.images import fit, read_upload
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.request import AIMS
from vlmdefense_demo.survey import PARADIGMS, attacker, methods, unavailable
from vlmdefense_demo.survey import first as ticked_first
from vlmdefense_demo.types import Paradigm
from vlmdefense_demo.ui import (
    api,
    bench,
    compare,
    curves,
    events,
    loading,
    pictures,
    ready,
    report,
    sharing,
    telling,
)
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import detectors as watching
from vlmdefense_demo.ui.classroom import desk
from vlmdefense_demo.ui.controls import widgets
from vlmdefense_demo.ui.examples import PRESETS, examples
from vlmdefense_demo.ui.first import first_paint
from vlmdefense_demo.ui.languages import switch
from vlmdefense_demo.ui.page import EPS, Controls, choices
from vlmdefense_demo.ui.photo import photo_input
from vlmdefense_demo.ui.pipeline import SLOT, panel
from vlmdefense_demo.ui.scripts import NAMED
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.survey import survey_tab
from vlmdefense_demo.ui.words import Words, said, tell


def build(site: Site) -> gr.Blocks:
    """The whole app, events and endpoints included."""
    first = first_paint(site)
    with gr.Blocks(title=tell("title"), fill_width=True, delete_cache=(900, 3600)) as demo:
        page = Controls()
        with gr.Row(elem_id="top", equal_height=False):
            gr.HTML(said(_title), elem_id="title")
            page.out["languages"] = switch()
            ready.lecture_button(page)
            sharing.toolbar(page)
        sharing.address_box(page)
        ready.shelf(page)
        with gr.Row(equal_height=False):
            _image(page, first)
            _change(page, first)
            _verdict(page, first)
        _strip(page, site, first)
        page.out["undefended"] = gr.HTML(first.get("undefended", ""), elem_id="undefended")
        with gr.Row(equal_height=False):
            for paradigm in PARADIGMS:
                _paradigm(page, site, paradigm, first)
        page.pair = panel(site.model)
        page.out[SLOT] = page.pair.card
        page.board = curves.board(first.get("earlier"))
        page.watch = watching.panel()
        page.out |= {"detect": page.watch.go, "readings": page.watch.shown}
        page.learned = gr.State({})
        page.desk = desk()
        _tabs(page, first)
        sharing.connect(demo, page, site, first.get("picture"))
        events.connect(page, site)
        demo.load(None, js=NAMED, api_visibility="private")
        ready.connect(demo, page, site)
        bench.connect(page, site)
        loading.connect(demo, page, site)
        api.endpoints(site)
    demo.queue(max_size=16, default_concurrency_limit=2)
    return demo


def _tabs(page: Controls, first: dict[str, Any]) -> None:
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab(tell("tab.compare")):
            page.compared = compare.tab(first.get("earlier"))
        with gr.Tab(tell("tab.help")):
            # Gradio cleans a value that it is built with, and forgets its languages.
            gr.Markdown().value = tell("help")
        with gr.Tab(tell("tab.bench")):
            page.bench = bench.tab()
        with gr.Tab(tell("tab.survey")):
            survey_tab(page.model)


def _title(words: Words) -> str:
    return f"<h1>{words('title')}</h1><p>{words('subtitle')}</p>"


def _kicker(key: str) -> None:
    gr.HTML(said(lambda words: f'<p class="kicker">{words(key)}</p>'))


def _image(page: Controls, first: dict[str, Any]) -> None:
    with gr.Column(scale=4, min_width=300, elem_classes="vd-panel"):
        _kicker("image.kicker")
        page.photos = examples()
        page.gallery = gr.Gallery(
            [(fit(read_upload(e.path).image, 224), e.caption) for e in page.photos],
            columns=4, rows=2, format="png", object_fit="cover", buttons=[],
            allow_preview=False, interactive=False, show_label=False, label=tell("image.examples"),
            elem_id="gallery",
        )  # fmt: skip
        page.picture = photo_input(
            value=first.get("picture"), height=190, label=tell("image.picture"),
            sources=["upload", "clipboard"], buttons=[], elem_id="picture",
            alt_text=tell("image.alt"),
        )  # fmt: skip
        page.preset = gr.Dropdown(
            [(tell(f"preset.{name}"), name) for name in PRESETS], value=first["preset"],
            label=tell("image.preset"),
            elem_id="preset",
        )  # fmt: skip
        page.labels = gr.Textbox(
            ", ".join(first["labels"]), lines=2, max_lines=6, label=tell("image.labels"),
            info=tell("image.labels.info"), elem_id="labels",
        )  # fmt: skip
        gr.HTML(said(lambda words: f'<p class="vd-caption">{words("image.note")}</p>'))


def _change(page: Controls, first: dict[str, Any]) -> None:
    with gr.Column(scale=9, min_width=340, elem_classes="vd-panel", elem_id="change"):
        _kicker("change.kicker")
        pictures.panel(page.out, first)


def _verdict(page: Controls, first: dict[str, Any]) -> None:
    with gr.Column(scale=4, min_width=270, elem_classes="vd-panel"):
        _kicker("verdict.kicker")
        page.out["verdict"] = gr.HTML(first.get("verdict", ""), elem_id="verdict")
        file = first["pair"][1] if "pair" in first else None
        with gr.Row(elem_id="keep"):
            page.out["download"] = gr.DownloadButton(
                tell("verdict.png"), value=file, interactive=file is not None, elem_id="download",
                min_width=110,
            )  # fmt: skip
            report.button(page.out)


def _strip(page: Controls, site: Site, first: dict[str, Any]) -> None:
    attacks = [(e.title, e.id) for e in methods("attack").values() if attacker(e).interactive]
    with gr.Column(elem_classes="vd-panel", elem_id="strip"):
        with gr.Row(elem_id="controls"):
            page.attack = gr.Dropdown(
                attacks, value=first["attack"], label=tell("attack"), elem_id="attack", scale=3,
                min_width=130,
            )  # fmt: skip
            page.eps = gr.Radio(
                list(EPS),
                value=first["eps"],
                label=tell("eps"),
                elem_id="eps",
                scale=4,
                min_width=296,
            )
            page.steps = gr.Slider(
                1,
                200,
                first["steps"],
                step=1,
                label=tell("steps"),
                elem_id="steps",
                scale=3,
                min_width=168,
            )
            page.knows = gr.Radio(
                [(tell("attacker.unaware"), False), (tell("attacker.aware"), True)],
                value=first["knows"],
                label=tell("attacker"),
                elem_id="knows",
                scale=4,
                min_width=232,
            )
            page.out["earlier"] = gr.State(first.get("earlier"))
            page.out["stop"] = gr.Button(
                tell("stop"), interactive=False, elem_id="stop", scale=1, min_width=80
            )
            page.out["go"] = gr.Button(
                tell("go"), variant="primary", elem_id="go", scale=2, min_width=180
            )
        page.out["status"] = gr.HTML(telling.status(""), elem_id="status")
        gr.HTML(telling.stale())
        with gr.Accordion(tell("details"), open=False):
            with gr.Row():
                page.truth = gr.Textbox(
                    label=tell("truth"), info=tell("truth.info"), elem_id="truth"
                )
                page.goal = gr.Dropdown(
                    [(tell(f"goal.{kind}"), kind) for kind in AIMS], value="wrong",
                    label=tell("goal"), elem_id="goal",
                )  # fmt: skip
                page.target = gr.Textbox(
                    label=tell("target"), info=tell("target.info"), elem_id="target"
                )
                page.template = gr.Textbox(
                    DEFAULT_TEMPLATE,
                    label=tell("prompt"),
                    info=tell("prompt.info"),
                    elem_id="template",
                )
                page.model = gr.Dropdown(
                    _models(site), value=site.model, label=tell("model"), elem_id="model",
                    info=tell("model.info"),
                )  # fmt: skip
            with gr.Row():
                page.second = photo_input(
                    height=140, label=tell("second"), sources=["upload"], buttons=[],
                    visible=False, elem_id="second", alt_text=tell("second.alt"),
                )  # fmt: skip
                for row in methods("attack").values():
                    if attacker(row).interactive:
                        shown = row.id == first["attack"]
                        page.params |= widgets(row, skip=("eps", "steps"), visible=shown)
                page.seed = gr.Number(
                    first["seed"], label=tell("seed"), info=tell("seed.info"), precision=0, minimum=0,
                    maximum=2**31 - 1, elem_id="seed",
                )  # fmt: skip


def _paradigm(page: Controls, site: Site, paradigm: Paradigm, first: dict[str, Any]) -> None:
    rows = methods("defense", paradigm)
    ticked = [id for id in rows if id in ticked_first(site.model)]
    with gr.Column(min_width=330):
        gr.HTML(said(partial(html.paradigm_head, paradigm)))
        page.chosen[paradigm] = gr.CheckboxGroup(
            choices(site.model, paradigm), value=ticked, container=False, show_label=False,
            label=tell("defences", paradigm=tell(paradigm)), elem_id=f"choose-{paradigm}",
        )  # fmt: skip
        page.greyed[paradigm] = gr.HTML(
            said(partial(html.greyed, unavailable(site.model, paradigm)))
        )
        for row in rows.values():
            on = row.id in ticked
            shown = first.get(row.id) or telling.placeholder(row.id, "ready")
            page.out[row.id] = gr.HTML(shown, elem_id=f"card-{row.id}", visible=on)
            with gr.Accordion(
                tell("settings", title=row.title), open=False, visible=on and row.adjustable
            ) as settings:
                page.params |= widgets(row)
            page.settings[row.id] = settings


def _models(site: Site) -> list[tuple[str, str]]:
    return [(MODELS[name].title if name in MODELS else name, name) for name in site.models()]
