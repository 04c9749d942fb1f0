"""Settings that travel: a file of this demo and a link set the controls, a button makes the link.

Neither starts a run. A link cannot carry a picture, only the name of one in the gallery.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from vlmdefense_demo.errors import DemoError, InvalidImage
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.survey import PARADIGMS, THEN, methods
from vlmdefense_demo.ui import pipeline, telling
from vlmdefense_demo.ui.controls import Key
from vlmdefense_demo.ui.examples import preset_of
from vlmdefense_demo.ui.form import Form, own_prompts
from vlmdefense_demo.ui.languages import SPEAK
from vlmdefense_demo.ui.link import LANGUAGE, OWN, Link, read_link, read_query, write_link
from vlmdefense_demo.ui.page import Controls, regroup
from vlmdefense_demo.ui.recipe import Recipe, checked, label_list, read_recipe
from vlmdefense_demo.ui.shelf import Shelf
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.words import (
    ENGLISH,
    LANGUAGES,
    Said,
    joined,
    language_of,
    refused,
    said,
    spoken,
    tell,
)

Learned = Mapping[str, LearnedContext]
# The address is known to the browser only; where it may not use the clipboard, the text is marked.
COPY = """async (query) => {
  if (!query) return query;
  const address = new URL(query, location.origin + location.pathname).href;
  try { await navigator.clipboard.writeText(address); } catch (refused) { }
  setTimeout(() => {
    const box = document.querySelector("#link textarea, #link input");
    if (box) { box.focus(); box.select(); box.scrollLeft = 0; }
  }, 150);
  return address;
}"""

CLEAR = "() => ['', {__type__: 'update', visible: false}]"


def toolbar(page: Controls) -> None:
    """The button, beside the title."""
    page.out["share"] = gr.Button(
        tell("share"), size="sm", scale=0, min_width=120, elem_id="share", elem_classes="tool"
    )


def address_box(page: Controls) -> None:
    """What a link says or cannot carry, and the link itself for browsers without a clipboard."""
    page.out["note"] = gr.HTML(_note(""), elem_id="link-note")
    page.out["link"] = gr.Textbox(
        label=tell("link"), visible=False, lines=1, max_lines=1, container=False,
        elem_id="link",
    )  # fmt: skip


def connect(demo: gr.Blocks, page: Controls, site: Site, first: str | None) -> None:
    """Attach what reads a file, reads the address, and makes a link; before a run is attached."""
    shelf = Shelf(page, first)
    fresh = about(page.form({control: control.value for control in page.inputs()}))
    hidden: dict[str, Any] = {
        "queue": False, "api_visibility": "private", "show_progress": "hidden",
    }  # fmt: skip
    status, note, box = page.out["status"], page.out["note"], page.out["link"]

    def uploaded(path: str | None, learned: Learned, request: gr.Request) -> list[Any]:
        return spoken(restore(page, path, learned), language_of(request))

    page.picture.upload(uploaded, [page.picture, page.learned], [*restored(page), status], **hidden)

    def opened(search: str, request: gr.Request) -> list[Any]:
        return spoken(open_link(page, shelf, fresh, search), language_of(request))

    def share(values: Mapping[Any, Any], request: gr.Request) -> tuple[Any, Any]:
        made = make_link(page.form(values), shelf, _asked_for(request))
        return spoken(made, language_of(request))

    def asked(values: Mapping[Any, Any]) -> str:
        form = page.form(values)
        return "" if _is_as_opened(form, shelf, fresh) else query_of(form, shelf)

    # The browser alone reads the address: a visit without a recipe in it costs the server nothing.
    search, wanted = (gr.Textbox(visible="hidden", label=label) for label in ("address", "photo"))
    demo.load(None, None, search, js="() => location.search", **hidden)
    search.change(opened, search, [*restored(page), wanted, note, status], **hidden)
    # A value, never an update: Gradio would build the picture's component anew, without its checks.
    wanted.change(partial(picture, site, shelf), wanted, page.picture, **hidden)
    page.out["share"].click(share, set(page.inputs()), [box, note], **hidden).then(
        None, box, box, js=COPY, **hidden
    )
    page.out["go"].click(None, None, [note, box], js=CLEAR, **hidden)
    settings = gr.Textbox(visible="hidden", label="settings")
    page.out["languages"].click(asked, set(page.inputs()), settings, **hidden).then(
        None, settings, None, js=SPEAK, **hidden
    )


def about(form: Form) -> dict[str, Any]:
    """A form as a recipe that `checked` takes."""
    return {
        "labels": label_list(form.labels),
        "template": form.template,
        "model": form.model,
        "attack": form.attack,
        "params": dict(form.attack_params),
        "goal": form.goal,
        "target": form.target,
        "truth": form.truth.strip(),
        "seed": int(form.seed),
        "attacker": "aware" if form.knows else "unaware",
        "defenses": {id: dict(values) for id, values in form.defenses.items()},
    }


def make_link(form: Form, shelf: Shelf, language: str = "") -> tuple[Any, Any]:
    """(the box, the note): a link to the settings as they stand, and what it cannot carry."""
    picture = shelf.name(form.picture)
    try:
        query = write_link(about(form), picture, language)
    except DemoError as error:
        return gr.update(value="", visible=False), _note(refused(error), failed=True)
    lost = {
        "link.own": picture == OWN,
        "link.second": form.goal == "picture",
        "link.model": form.model not in MODELS,
        "link.trained": bool(own_prompts(form.model, form.learned)),
    }
    words = joined(tell("link.made"), *(tell(key) for key, is_lost in lost.items() if is_lost))
    space = os.environ.get("SPACE_ID", "")  # a Space is a frame: its own address is not the page's
    base = f"https://huggingface.co/spaces/{space}" if space else ""
    return gr.update(value=f"{base}{query}", visible=True), _note(words)


def query_of(form: Form, shelf: Shelf) -> str:
    """The query string of the settings as they stand, "" for what no link can say."""
    try:
        return write_link(about(form), shelf.name(form.picture))
    except DemoError:
        return ""


def restored(page: Controls) -> list[Any]:
    """The controls that a recipe sets, in the order of `settings`."""
    return [
        *page.of_attack(), page.attack, page.labels, page.preset, page.template, page.model, page.goal,
        page.target, page.seed, page.knows, page.truth, *page.chosen.values(), *page.greyed.values(),
        *(page.params[key] for key in _of_defenses(page)),
        page.pair.first, page.pair.second, page.pair.card,
    ]  # fmt: skip


def settings(page: Controls, recipe: Recipe, learned: Learned | None = None) -> list[Any]:
    """Updates for `restored`; what a recipe does not say stays as it is.

    Args:
        learned: prompts of one's own, which stay on offer.
    """
    return [
        *page.suited(recipe.attack, recipe.params), recipe.attack, recipe.labels, preset_of(label_list(recipe.labels)),
        recipe.template, recipe.model or gr.skip(), recipe.goal, recipe.target, recipe.seed,
        recipe.knows, recipe.truth, *_defences(page, recipe, learned or {}),
    ]  # fmt: skip


def restore(page: Controls, path: str | None, learned: Learned | None = None) -> list[Any]:
    """`restored` and the status, as a file of this demo says; any other changes nothing."""
    same = [gr.skip()] * len(restored(page))
    try:
        recipe = read_recipe(path) if path else None
    except InvalidImage as error:
        return [*same, telling.status(refused(error), failed=True)]
    except DemoError as error:
        return [*same, telling.status(tell("recipe.useless", why=refused(error)))]
    if recipe is None:
        return [*same, gr.skip()]
    if recipe.model not in _models(page):
        recipe = replace(recipe, model=None)
    return [*settings(page, recipe, learned), telling.status(recipe.sentence())]


def open_link(page: Controls, shelf: Shelf, fresh: Mapping[str, Any], search: str) -> list[Any]:
    """`restored`, the picture's name, the note and the status, as the address says; nothing is run.

    What the page shows is marked as stale, unless the link says just what the page opens with.
    """
    same = [gr.skip()] * (len(restored(page)) + 1)
    try:
        query = read_query(search)
        if not query:
            return [*same, gr.skip(), gr.skip()]
        link = read_link(query, fresh, shelf.paths, _models(page))
    except DemoError as error:
        return [*same, _note(refused(error), failed=True), gr.skip()]
    note = _note(link.sentence(), failed=bool(link.left_out))
    if _is_first(link, shelf, fresh):
        return [*same, note, gr.skip()]
    status = telling.status(tell("link.pending"), pending=True)
    other = link.picture not in ("", shelf.first)
    return [*settings(page, link.recipe), link.picture if other else gr.skip(), note, status]


def _models(page: Controls) -> set[str]:
    """Those of the catalog that the page offers: not all of them on every server."""
    return {name for _, name in page.model.choices} & set(MODELS)


def picture(site: Site, shelf: Shelf, name: str) -> str | None:
    """A file of the gallery's photo; None for somebody's own, which is not here."""
    path = shelf.paths.get(name)
    return site.outbox.put(path.read_bytes(), path.name) if path else None


def _note(text: str, failed: bool = False) -> Said:
    """The line below the title, also announced to screen readers."""
    kind = "link-note failed" if failed else "link-note"
    start = f'<p class="{kind}" role="status">'
    return said(lambda words: f"{start}{escape(words.say(text))}</p>")


def _asked_for(request: gr.Request) -> str:
    """The language a link carries: what the address named, or whatever is not English."""
    words = language_of(request)
    named = request.query_params.get(LANGUAGE) in LANGUAGES
    return words.code if named or words is not ENGLISH else ""


def _is_as_opened(form: Form, shelf: Shelf, fresh: Mapping[str, Any]) -> bool:
    return shelf.name(form.picture) == shelf.first and about(form) == fresh


def _is_first(link: Link, shelf: Shelf, fresh: Mapping[str, Any]) -> bool:
    return link.picture in ("", shelf.first) and link.recipe == checked(fresh)


def _defences(page: Controls, recipe: Recipe, learned: Learned) -> list[Any]:
    """Tick boxes, what is greyed, every parameter of the defences that are named, the pipeline."""
    keys = _of_defenses(page)
    if recipe.defenses is None:
        return [gr.skip()] * (2 * len(PARADIGMS) + len(keys) + 3)
    model = recipe.model or page.model.value
    ticked = [[id for id in recipe.defenses if id in methods("defense", p)] for p in PARADIGMS]
    both = next((id for id in recipe.defenses if THEN in id), "")
    first, _, second = both.partition(THEN)
    values = [_value(recipe.defenses, both, key) for key in keys]
    boxes = regroup(model, learned, *ticked)
    for box, mine in zip(boxes[: len(ticked)], ticked, strict=True):
        box["value"] = [id for id in box["value"] if id in mine]  # one's own are only on offer
    return [*boxes, *values, *pipeline.choose(model, first, second)]


def _value(given: Mapping[str, Mapping[str, Any]], both: str, key: Key) -> Any:
    """A defence's parameter as it is named for itself, else as a part of the pipeline."""
    id, name = key
    own = given.get(id, {})
    return own[name] if name in own else given.get(both, {}).get(f"{id}_{name}", gr.skip())


def _of_defenses(page: Controls) -> list[Key]:
    return [key for key in page.params if key[0] in methods("defense")]
