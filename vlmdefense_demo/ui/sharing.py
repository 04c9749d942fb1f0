"""Settings that travel: a file of this demo and a link set the controls, a button makes the link.

Neither starts a run. A link cannot carry a picture, only the name of one in the gallery.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from vlmdefense_demo.errors import DemoError, InvalidImage
from vlmdefense_demo.images import fit, read_upload
from vlmdefense_demo.models.catalog import MODELS
from vlmdefense_demo.survey import PARADIGMS, THEN, methods
from vlmdefense_demo.ui import handlers, pipeline
from vlmdefense_demo.ui.controls import Key
from vlmdefense_demo.ui.events import Controls, regroup
from vlmdefense_demo.ui.examples import PRESETS
from vlmdefense_demo.ui.form import Form, own_prompts
from vlmdefense_demo.ui.handlers import Site
from vlmdefense_demo.ui.link import OWN, Link, read_link, read_query, write_link
from vlmdefense_demo.ui.recipe import Recipe, checked, label_list, read_recipe

SIDE = 224
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


class Shelf:
    """Tells which picture of the gallery a file is, by its content.

    Args:
        page: with its photos.
        first: path of the picture on the first paint, a photo of the gallery cut to `SIDE` or not.
    """

    def __init__(self, page: Controls, first: str | None) -> None:
        self.paths = {photo.caption: photo.path for photo in page.photos}
        self.captions = {_digest(path): caption for caption, path in self.paths.items()}
        self.first = ""
        if first is not None:
            shown = _pixels(first)
            self.first = next((c for c, p in self.paths.items() if _pixels(p) == shown), OWN)
            self.captions[_digest(Path(first))] = self.first

    def name(self, path: str | None) -> str:
        """Its caption, `OWN` for any other file, "" for none."""
        return self.captions.get(_digest(Path(path)), OWN) if path else ""


def toolbar(page: Controls) -> None:
    """The button, beside the title."""
    page.out["share"] = gr.Button(
        "Copy link", size="sm", scale=0, min_width=120, elem_id="share", elem_classes="tool"
    )


def address_box(page: Controls) -> None:
    """What a link says or cannot carry, and the link itself for browsers without a clipboard."""
    page.out["note"] = gr.HTML(_note(""), elem_id="link-note")
    page.out["link"] = gr.Textbox(
        label="Link to these settings", visible=False, lines=1, max_lines=1, container=False,
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
    page.picture.upload(partial(restore, page), page.picture, [*restored(page), status], **hidden)

    def opened(search: str) -> list[Any]:
        return open_link(page, shelf, fresh, search)

    def share(values: Mapping[Any, Any]) -> tuple[Any, Any]:
        return make_link(page.form(values), shelf)

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


def make_link(form: Form, shelf: Shelf) -> tuple[Any, Any]:
    """(the box, the note): a link to the settings as they stand, and what it cannot carry."""
    picture = shelf.name(form.picture)
    try:
        query = write_link(about(form), picture)
    except DemoError as error:
        return gr.update(value="", visible=False), _note(str(error), failed=True)
    words = (
        "This link brings the settings back. It is on the clipboard, if your browser allows that."
    )
    if picture == OWN:
        words += " Your own picture does not travel: who opens the link is asked for one."
    if form.goal == "picture":
        words += " The second picture does not travel."
    if form.model not in MODELS:
        words += " The model is this server's own and is not named in it."
    if own_prompts(form.model, form.learned):
        words += " What was trained on this page stays here."
    space = os.environ.get("SPACE_ID", "")  # a Space is a frame: its own address is not the page's
    base = f"https://huggingface.co/spaces/{space}" if space else ""
    return gr.update(value=f"{base}{query}", visible=True), _note(words)


def restored(page: Controls) -> list[Any]:
    """The controls that a recipe sets, in the order of `settings`."""
    return [
        *page.of_attack(), page.attack, page.labels, page.preset, page.template, page.model, page.goal,
        page.target, page.seed, page.knows, page.truth, *page.chosen.values(), *page.greyed.values(),
        *(page.params[key] for key in _of_defenses(page)),
        page.pair.first, page.pair.second, page.pair.card,
    ]  # fmt: skip


def settings(page: Controls, recipe: Recipe) -> list[Any]:
    """Updates for `restored`; what a recipe does not say stays as it is."""
    same = [name for name, some in PRESETS.items() if ", ".join(some) == recipe.labels]
    return [
        *page.suited(recipe.attack, recipe.params), recipe.attack, recipe.labels, next(iter(same), None),
        recipe.template, recipe.model or gr.skip(), recipe.goal, recipe.target, recipe.seed,
        recipe.knows, recipe.truth, *_defences(page, recipe),
    ]  # fmt: skip


def restore(page: Controls, path: str | None) -> list[Any]:
    """`restored` and the status, as a file of this demo says; any other changes nothing."""
    same = [gr.skip()] * len(restored(page))
    try:
        recipe = read_recipe(path) if path else None
    except InvalidImage as error:
        return [*same, handlers.status(str(error), failed=True)]
    except DemoError as error:
        return [*same, handlers.status(f"The recipe in this file is of no use here: {error}")]
    if recipe is None:
        return [*same, gr.skip()]
    return [*settings(page, recipe), handlers.status(recipe.sentence())]


def open_link(page: Controls, shelf: Shelf, fresh: Mapping[str, Any], search: str) -> list[Any]:
    """`restored`, the picture's name, the note and the status, as the address says; nothing is run.

    What the page shows is marked as stale, unless the link says just what the page opens with.
    """
    same = [gr.skip()] * (len(restored(page)) + 1)
    try:
        query = read_query(search)
        if not query:
            return [*same, gr.skip(), gr.skip()]
        link = read_link(query, fresh, shelf.paths)
    except DemoError as error:
        return [*same, _note(str(error), failed=True), gr.skip()]
    note = _note(link.sentence(), failed=bool(link.left_out))
    if _is_first(link, shelf, fresh):
        return [*same, note, gr.skip()]
    status = handlers.status("Set as in the link. Press “Attack & defend” to run it.", pending=True)
    other = link.picture not in ("", shelf.first)
    return [*settings(page, link.recipe), link.picture if other else gr.skip(), note, status]


def picture(site: Site, shelf: Shelf, name: str) -> str | None:
    """A file of the gallery's photo; None for somebody's own, which is not here."""
    path = shelf.paths.get(name)
    return site.outbox.put(path.read_bytes(), path.name) if path else None


def _note(words: str, failed: bool = False) -> str:
    """The line below the title, also announced to screen readers."""
    kind = "link-note failed" if failed else "link-note"
    return f'<p class="{kind}" role="status">{escape(words)}</p>'


def _is_first(link: Link, shelf: Shelf, fresh: Mapping[str, Any]) -> bool:
    return link.picture in ("", shelf.first) and link.recipe == checked(fresh)


def _defences(page: Controls, recipe: Recipe) -> list[Any]:
    """Tick boxes, what is greyed, every parameter of the defences that are named, the pipeline."""
    keys = _of_defenses(page)
    if recipe.defenses is None:
        return [gr.skip()] * (2 * len(PARADIGMS) + len(keys) + 3)
    model = recipe.model or page.model.value
    ticked = [[id for id in recipe.defenses if id in methods("defense", p)] for p in PARADIGMS]
    both = next((id for id in recipe.defenses if THEN in id), "")
    first, _, second = both.partition(THEN)
    values = [_value(recipe.defenses, both, key) for key in keys]
    return [*regroup(model, {}, *ticked), *values, *pipeline.choose(model, first, second)]


def _value(given: Mapping[str, Mapping[str, Any]], both: str, key: Key) -> Any:
    """A defence's parameter as it is named for itself, else as a part of the pipeline."""
    id, name = key
    own = given.get(id, {})
    return own[name] if name in own else given.get(both, {}).get(f"{id}_{name}", gr.skip())


def _of_defenses(page: Controls) -> list[Key]:
    return [key for key in page.params if key[0] in methods("defense")]


def _digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _pixels(path: str | Path) -> bytes:
    return fit(read_upload(path).image, SIDE).tobytes()
