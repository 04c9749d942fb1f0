"""A story as a run that has been: its curves can be drawn, its report downloaded."""

from __future__ import annotations

from vlmdefense_demo.errors import DemoError
from vlmdefense_demo.export import Story
from vlmdefense_demo.images import from_png
from vlmdefense_demo.request import AWARE, Aim, Request
from vlmdefense_demo.ui.earlier import Earlier
from vlmdefense_demo.ui.recipe import label_list, read_recipe


def told(story: Story) -> Earlier | None:
    """What the page would hold after this run; None where the files do not say how it was made."""
    first, *rest = story.cards
    if first.attack is None:
        return None
    try:
        recipe = read_recipe(first.attack.png)
    except DemoError:
        return None
    if recipe is None or recipe.model is None or recipe.goal == "picture":
        return None
    request = Request(
        from_png(story.clean), label_list(recipe.labels), recipe.template, recipe.attack,
        recipe.params, {card.method: card.params for card in rest}, recipe.truth or None,
        Aim.at(recipe.target, recipe.goal), recipe.seed,
        rungs=AWARE if any(len(card.ladder) > 1 for card in rest) else (),
        exhibits=True, looks=True,
    )  # fmt: skip
    return Earlier(request, recipe.model, first, story.cards, story=True)
