"""The share of an attack's time that is spent outside the image tower, and outside the model it attacks.

The model is everything from pixels to logits: the tower, the cosines and the temperature. Both are read
from clocks at the doors while the attack runs, for one picture and for a batch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.run import Run
from vlmdefense_demo.speed.clock import Clock, TimedModel, TimedTower, noise, seconds
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Goal, Images

BATCH = 8
# A budget of twenty steps each, spent to the end.
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 20, "stop_early": False},
    "mi_fgsm": {"steps": 20},
    "pgd_l2": {"steps": 20},
    "apgd_ce": {"steps": 20},
    "apgd_dlr": {"steps": 20},
    "square": {"eps": 1, "queries": 40},
    "embedding": {"steps": 20},
    "patch": {"steps": 20, "place": "centre"},
    "ddn": {"steps": 20},
    "cw": {"searches": 1, "steps": 20},
}


@dataclass(frozen=True)
class Spent:
    """Seconds of one run of an attack: in all, inside the image tower, inside the whole model."""

    total: float
    tower: float
    model: float


@dataclass(frozen=True)
class Share:
    """How much of an attack is outside of what it attacks, run by run."""

    name: str
    alone: tuple[Spent, ...]
    batch: tuple[Spent, ...]

    def __str__(self) -> str:
        ms = 1000 * statistics.median(run.total for run in self.alone)
        return (
            f"{self.name:24} {ms:8.1f} ms   outside the tower {_outside(self.alone, 'tower')}, the "
            f"model {_outside(self.alone, 'model')}; {BATCH} at once {_outside(self.batch, 'tower')}, "
            f"{_outside(self.batch, 'model')}"
        )


def _outside(runs: tuple[Spent, ...], part: Literal["tower", "model"]) -> str:
    return f"{statistics.median(1 - getattr(run, part) / run.total for run in runs):.1%}"


def attacks(backbone: Backbone, repeats: int = 15) -> Iterator[str]:
    """Lines: each attack's share outside tower and model, for one picture and for a batch."""
    batch = noise(backbone, BATCH)
    for id, values in ATTACKS.items():
        found = entry(id, "attack")
        attacker = found.build(values)
        alone, many = (
            _clocked(attacker, backbone, images, max(1, repeats // len(images)))
            for images in (batch[:1], batch)
        )
        yield str(Share(found.title, alone, many))


def _clocked(attacker: Attacker, backbone: Backbone, x: Images, n: int) -> tuple[Spent, ...]:
    """`n` runs after one that warms up."""
    tower, model = Clock(), Clock()
    clf = TimedModel(TimedTower(backbone, tower), model)
    with torch.no_grad():
        goal = Goal(clf(x).argmax(1))
        runs = []
        for _ in range(n + 1):
            tower.seconds = model.seconds = 0.0
            run = Run(ids=tuple(map(str, range(len(x)))))
            total = seconds(lambda run=run: attacker(clf, x, goal, run=run))  # type: ignore[misc]
            runs.append(Spent(total, tower.seconds, model.seconds))
    return tuple(runs[1:])
