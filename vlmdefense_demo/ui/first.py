"""The first paint: a finished story read from disk. No click, no model and no queue is needed."""

from __future__ import annotations

from typing import Any

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.export import Story, read_story
from vlmdefense_demo.images import from_png
from vlmdefense_demo.stories.recipes import FOLDER, RECIPES
from vlmdefense_demo.ui import cards as html
from vlmdefense_demo.ui import pictures, telling
from vlmdefense_demo.ui.examples import PRESETS, preset_of
from vlmdefense_demo.ui.site import Site
from vlmdefense_demo.ui.story import told

STORY = FOLDER / RECIPES[0].slug


def first_paint(site: Site) -> dict[str, Any]:
    """The values every output and control starts with; without a readable story only the controls."""
    story = _story()
    preset, labels = next(iter(PRESETS.items()))
    controls = {"preset": preset, "labels": labels, "attack": "pgd", "eps": 4, "steps": 10,
                "seed": 0, "knows": False}  # fmt: skip
    if story is None:
        return controls
    card, *rest = story.cards
    order = html.class_order(card)
    assert card.attack is not None
    clean = from_png(story.clean)
    first = pictures.made(site.outbox, clean, card.attack)
    first |= {"look_caption": ""} | pictures.looked(clean, card.attack, card.notes)
    labels = tuple(story.about["labels"])
    controls |= {"labels": labels, "attack": card.attack.method, "seed": story.about["seed"]}
    controls["preset"] = preset_of(labels)
    controls["knows"] = any(len(c.ladder) > 1 for c in rest)
    controls |= {k: v for k, v in card.attack.params.items() if k in ("eps", "steps")}
    return (
        controls
        | first
        | {c.method: telling.defence(c, order) for c in rest}
        | {
            "undefended": telling.undefended(card, order),
            "verdict": telling.verdict(card, story.about["badge"]),
            "picture": first["pair"][0],
            "earlier": told(story),
        }
    )


def _story() -> Story | None:
    try:
        return read_story(STORY)
    except DemoError:
        return None
