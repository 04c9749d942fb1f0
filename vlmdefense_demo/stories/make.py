"""Run a recipe and write its story: results are measured here, and nowhere written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vlmdefense_demo.engine import compare
from vlmdefense_demo.export import badge, write_story
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import load_model
from vlmdefense_demo.stories.recipes import MODEL, Recipe
from vlmdefense_demo.types import Card, Rung


def make(recipes: Sequence[Recipe], out: Path, device: str = "cpu") -> Iterator[str]:
    """Write each story's folder; yields a line a story.

    Args:
        out: the folder of the stories; a story's own pictures in it are replaced.
    """
    backbone = load_model(MODEL, device)
    for recipe in recipes[:1]:  # the first passes of a process are slow; they are no story's price
        request = recipe.request(recipe.image(backbone))
        list(compare(replace(request, attack=None, rungs=()), backbone))
    for recipe in recipes:
        folder, image = out / recipe.slug, recipe.image(backbone)
        cards = cook(recipe, backbone)
        for old in folder.glob("*.png"):
            old.unlink()
        about = {
            "model": MODEL, "labels": list(recipe.labels), "seed": recipe.seed,
            "badge": badge(MODEL, recipe.request(image), cards[0]), "recipe": recipe.to_json(),
        }  # fmt: skip
        write_story(folder, image, cards, about)
        size = sum(path.stat().st_size for path in folder.iterdir())
        verdicts = ", ".join(f"{card.title} {card.verdict}" for card in cards)
        yield f"{recipe.slug}: {verdicts}; {size / 1e6:.2f} MB"


def cook(recipe: Recipe, backbone: Backbone) -> list[Card]:
    """The cards of a recipe, undefended first."""
    request = recipe.request(recipe.image(backbone))
    cards = {card.method: card for card in compare(request, backbone)}
    return [replace(card, ladder=_slim(card)) for card in cards.values()]


def _slim(card: Card) -> tuple[Rung, ...]:
    """Only the attacker a card talks about keeps the picture: who got through, or came last."""
    told = next((r for r in card.ladder[1:] if r.verdict == "fooled"), None)
    told = told or next(reversed(card.ladder), None)
    return tuple(
        r if r.name == "transfer" or r is told else replace(r, png=b"") for r in card.ladder
    )
