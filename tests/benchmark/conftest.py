"""A folder of small pictures, one folder a class, and what is asked about them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests import tiny
from vlmdefense_demo.benchmark.plan import Plan, settings
from vlmdefense_demo.benchmark.sources import read_source
from vlmdefense_demo.benchmark.tasks import tasks
from vlmdefense_demo.images import to_array
from vlmdefense_demo.ladder import Budget
from vlmdefense_demo.models.classifier import ZeroShotClassifier

SMALL = Budget(steps=2, adaptive_steps=2, draws=1, queries=5, fresh=1)
WORDS = ("cat", "dog", "red_car", "bird")


@pytest.fixture(scope="session")
def tree(tmp_path_factory, backbones):
    """Six pictures a class, named as the tiny model itself answers, so that there is room to fall."""
    root = tmp_path_factory.mktemp("tree")
    labels = tuple(word.replace("_", " ") for word in WORDS)
    clf = ZeroShotClassifier(backbones["vit"], labels)
    for seed in range(24):
        x = tiny.images(seed=seed)
        with torch.no_grad():
            index = int(clf(x).argmax())
        # One in six is given another word, so that some answers are wrong before any attack.
        folder = root / WORDS[(index + (seed % 6 == 0)) % len(WORDS)]
        folder.mkdir(exist_ok=True)
        Image.fromarray(to_array(x)).save(folder / f"{seed}.png")
    for word in WORDS:
        (root / word).mkdir(exist_ok=True)
    return root


@pytest.fixture
def some_tasks(tree):
    return tasks(read_source(tree).pictures, batch=5)


def small_plan(defenses="undefended,ensemble:views=2/3,bits", **changes):
    """Quick, and with somebody who climbs."""
    given = {"eps": (2.0, 8.0), "steps": ("clean", "transfer", "adaptive"), "budget": SMALL}
    return Plan(settings(defenses), **(given | {"attack_values": {"steps": 2}} | changes))


@pytest.fixture
def plan():
    return small_plan
