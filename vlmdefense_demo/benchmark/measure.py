"""The measuring itself: a batch of pictures, its adversarial twins, and every defence before both.

What is shared is made once: the clean batch, one attacked batch a radius, and, because all defences
draw from the same place of the seed tree, the features of the views they have in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm import tqdm

from vlmdefense_demo.benchmark.plan import Plan, Setting, Step, digest
from vlmdefense_demo.benchmark.rows import SCHEMA, Row, Rows
from vlmdefense_demo.benchmark.scene import Scene
from vlmdefense_demo.benchmark.tasks import Task
from vlmdefense_demo.benchmark.trial import Broken, Found, Trial
from vlmdefense_demo.errors import Cancelled
from vlmdefense_demo.failures import FAILURES
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.types import Cost


def measure(plan: Plan, backbone: Backbone, tasks: Sequence[Task], rows: Rows) -> None:
    """Write every row of the plan that is not there yet."""
    total = len(tasks) * len(plan.seeds) * len(plan.groups())
    with tqdm(desc=rows.file.stem, total=total, mininterval=5) as bar:
        for _ in measuring(plan, backbone, tasks, rows):
            bar.update()


def measuring(
    plan: Plan,
    backbone: Backbone,
    tasks: Sequence[Task],
    rows: Rows,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[None]:
    """The same, coming back after every batch of every defence.

    Raises:
        Cancelled: `should_stop` returned True; what was measured is kept.
    """
    for task in tasks:
        for seed in plan.seeds:
            batch = Batch(Scene(plan, backbone, task, seed, should_stop))
            for group in plan.groups():
                if not batch.keys(group) <= rows.done:
                    rows.add(batch.rows(group))
                yield


class Batch:
    """The rows of one batch under one seed.

    Args:
        scene: what all defences share on it.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def keys(self, group: Sequence[Setting]) -> set[str]:
        """Of all rows the settings of one defence must have."""
        cells, pictures = self.scene.plan.cells(group), self.scene.task.pictures
        return {self._key(group, *cell, picture.key) for cell in cells for picture in pictures}

    def rows(self, group: Sequence[Setting]) -> Iterator[Row]:
        """All rows of the settings of one defence; one that fails gives rows that say so."""
        self.scene.prepare()
        broken: Broken = defaultdict(list)
        for setting in group:
            trial = Trial(self.scene, setting, broken)
            try:
                for step, eps, found in trial.steps():
                    yield from self._rows(group, setting, step, eps, found)
            except Cancelled:
                raise
            except FAILURES as error:
                n = len(self.scene.task.pictures)
                empty = Found(torch.zeros(n, dtype=torch.bool), [Cost()], error=str(error))
                for _, step, eps in self.scene.plan.cells([setting]):
                    yield from self._rows(group, setting, step, eps, empty)

    def _rows(
        self, group: Sequence[Setting], setting: Setting, step: Step, eps: float, found: Found
    ) -> Iterator[Row]:
        scene = self.scene
        for picture, standing, cost in zip(
            scene.task.pictures, found.standing.tolist(), found.each(), strict=True
        ):
            yield {
                "schema": SCHEMA,
                "key": self._key(group, setting, step, eps, picture.key),
                "world": scene.task.world,
                "picture": picture.key,
                "label": picture.label,
                "model": scene.backbone.name,
                "conditions": digest(scene.plan.conditions(step)),
                "seed": scene.seed,
                "defense": setting.id,
                "values": setting.values,
                "attack": scene.plan.attack if eps else "",
                "eps": eps,
                "step": step,
                "standing": standing,
                "error": found.error,
                **cost,
            }

    def _key(
        self, group: Sequence[Setting], setting: Setting, step: Step, eps: float, picture: str
    ) -> str:
        """Everything the row depends on, in a short name."""
        scene, plan, model = self.scene, self.scene.plan, self.scene.backbone.name
        return digest(
            picture, scene.task.labels, model, scene.seed, setting.id, step, eps,
            plan.conditions(step), plan.company(group, setting, step, model),
        )  # fmt: skip
