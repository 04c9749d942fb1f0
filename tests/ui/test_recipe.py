"""A file of this demo sets the controls as they were when it was made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmdefense_demo.errors import DemoError, InvalidImage
from vlmdefense_demo.images import read_upload, to_png
from vlmdefense_demo.ui import handlers
from vlmdefense_demo.ui.recipe import Recipe, read_recipe

GOOD = {
    "model": "pocket",
    "labels": ["dog", "cat", "puppy"],
    "groups": [0, 1, 0],
    "template": "a drawing of a {}.",
    "attack": "apgd_ce",
    "params": {"eps": 2, "steps": 33},
    "goal": "label",
    "target": "cat",
    "truth": "puppy",
    "seed": 7,
    "version": "0.1",
}


@pytest.fixture
def written(tmp_path):
    """A picture with this text in it."""

    def write(about):
        path = tmp_path / "made.png"
        path.write_bytes(to_png(torch.zeros(1, 3, 224, 224), about))
        return str(path)

    return write


def test_everything_that_was_written_comes_back(written):
    assert read_recipe(written(GOOD)) == Recipe(
        labels="dog = puppy, cat", template="a drawing of a {}.", attack="apgd_ce",
        params={"eps": 2, "steps": 33}, goal="label", target="cat", seed=7, model="pocket",
        truth="puppy", against="",
    )  # fmt: skip


def test_the_sentence_names_the_attack_and_an_unknown_model(written):
    assert read_recipe(written(GOOD)).sentence() == (
        "Made by this demo: APGD-CE, ε 2, seed 7. Labels and settings are set as they were."
    )
    l2 = read_recipe(written(GOOD | {"params": {"norm": "l2", "radius": 1.5, "eps": 2}}))
    assert l2.attack_in_words() == "APGD-CE, L2 1.5"
    assert (
        read_recipe(written(GOOD | {"attack": "ddn", "params": {}}))
        .attack_in_words()
        .endswith("L2")
    )
    other = read_recipe(written(GOOD | {"model": "local-dir:/etc"}))
    assert other.model is None
    assert other.sentence().endswith("Its model is not known here.")


def test_a_picture_of_anybody_else_has_no_recipe(written, photos):
    assert read_recipe(str(photos["cat"])) is None
    assert read_recipe(written(None)) is None


def test_a_file_made_against_a_defence_says_so(written):
    rung = {"defense": "fare", "rung": "adaptive", "how": "APGD-CE and APGD-DLR, 20 steps each"}
    recipe = read_recipe(written(GOOD | rung))
    assert recipe.knows
    assert not read_recipe(written(GOOD)).knows
    assert recipe.sentence().startswith(
        "Made by this demo: APGD-CE and APGD-DLR, 20 steps each, against FARE, seed 7."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"labels": "dog"},
        {"labels": ["dog", 3, "cat"]},
        {"labels": ["dog"], "groups": [0]},
        {"groups": [0]},
        {"groups": None},
        {"template": "no place"},
        {"template": ["{}"]},
        {"attack": "nope"},
        {"attack": None},
        {"attack": {}},
        {"attack": "fare"},
        {"attack": "autoattack", "params": {}},
        {"params": {"eps": 500}},
        {"params": {"eps": "<b>"}},
        {"params": [1]},
        {"params": {"nope": 1}},
        {"goal": "fame"},
        {"goal": ["label"]},
        {"target": "zebra"},
        {"truth": "zebra"},
        {"truth": 3},
        {"labels": ["dog, brown", "cat", "puppy"]},
        {"labels": ["dog、狗", "cat", "puppy"]},
        {"params": {"eps": 1.5}},
        {"rung": "adaptive"},
        {"rung": "adaptive", "how": "PGD", "defense": "pgd"},
        {"seed": "7"},
        {"seed": 1e99},
    ],
)
def test_a_recipe_anybody_wrote_is_checked_like_every_input(written, change):
    with pytest.raises(DemoError):
        read_recipe(written(GOOD | change))


def test_a_damaged_file_is_a_damaged_picture(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    with pytest.raises(InvalidImage):
        read_recipe(str(path))


@pytest.mark.parametrize("goal", ["wrong", "runner-up", "label", "caption"])
def test_what_a_run_delivers_restores_its_form(site, form, tmp_path, goal):
    target = {"label": "dog", "caption": "a blue bus"}.get(goal, "")
    asked = replace(
        form, labels="cat = kitten, dog, lion", template="this is a {}", goal=goal, target=target,
        attack="mi_fgsm", attack_params={"eps": 2, "steps": 3}, defenses={}, seed=11, truth="kitten",
    )  # fmt: skip
    updates = list(handlers.run(site, asked, "me"))
    path = next(u["download"].value for u in updates if "pair" in u)
    if isinstance(path, dict):
        path = path["path"]
    assert read_upload(path).recipe is not None
    recipe = read_recipe(path)
    assert recipe.labels.startswith("cat = kitten, dog, lion")
    assert (recipe.template, recipe.attack, recipe.seed) == ("this is a {}", "mi_fgsm", 11)
    assert (recipe.goal, recipe.target) == (goal, target)
    assert recipe.params["eps"], recipe.params["steps"] == (2, 3)
    assert (recipe.model, recipe.truth, recipe.knows) == ("pocket", "kitten", False)
