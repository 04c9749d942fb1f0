"""Golden behaviour of the shipped weights, on photos that ship inside dependencies.

Counts may differ by one picture between machines; a larger change means other weights or another
algorithm, and belongs in a commit of its own.
"""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from vlmdefense_demo import Goal, ZeroShotClassifier, attack, defend, load_image, load_model
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.models.catalog import POCKET
from vlmdefense_demo.ui.examples import EVERYDAY, examples

GOLDEN = {"fooled": {"fgsm": 4, "pgd": 8}, "held": {"fare": 7, "rtpt": 6, "ttc": 1}}


@pytest.fixture(scope="module")
def photos():
    rows = examples()
    return torch.cat([load_image(e.path) for e in rows]), [e.answer for e in rows]


@pytest.fixture(scope="module")
def clf():
    return ZeroShotClassifier(load_model("pocket", "cpu"), EVERYDAY)


@pytest.fixture(scope="module")
def goal(clf, photos):
    return Goal(torch.tensor([clf.labels.index(answer) for answer in photos[1]]))


@pytest.fixture(scope="module")
def attacked(clf, photos, goal):
    return attack("pgd", clf, photos[0], goal, eps=4 / 255)


def test_eight_photos_are_there(photos):
    assert len(photos[1]) == 8


def test_plain_words_are_right_on_every_bundled_photo(clf, photos):
    with torch.no_grad():
        answers = [clf.labels[i] for i in clf(photos[0]).argmax(1).tolist()]
    assert answers == photos[1]


@pytest.mark.parametrize("id", GOLDEN["fooled"])
def test_how_many_photos_an_attack_fools(id, clf, photos, goal):
    fooled = int(attack(id, clf, photos[0], goal, eps=2 / 255).success.sum())
    assert abs(fooled - GOLDEN["fooled"][id]) <= 1


@pytest.mark.parametrize("id", GOLDEN["held"])
def test_how_many_photos_a_defence_holds(id, clf, goal, attacked):
    with torch.no_grad():
        logits = defend(id, clf, attacked.images).logits
    held = int((~goal.reached(logits)).sum())
    assert abs(held - GOLDEN["held"][id]) <= 1


def test_the_attack_stays_in_its_ball_and_on_the_grid(photos, attacked):
    delta = (attacked.images - photos[0]) * LEVELS
    assert delta.abs().max() <= 4.001
    assert (delta - delta.round()).abs().max() < 1e-3


def test_open_clip_alone_loads_the_folder():
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{POCKET}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{POCKET}")
    with torch.no_grad():
        image = model.encode_image(torch.zeros(1, 3, 224, 224), normalize=True)
        text = model.eval().encode_text(tokenizer(["a photo of a cat."]), normalize=True)
    assert image.shape == text.shape == (1, 512)
    assert preprocess is not None


def test_the_folder_is_small():
    size = sum(p.stat().st_size for p in POCKET.iterdir() if p.name.startswith("open_clip"))
    assert size <= 45e6
    assert json.loads((POCKET / "open_clip_config.json").read_text())["model_cfg"]["custom_text"]
