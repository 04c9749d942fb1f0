"""One setting of one defence on one batch: its answers, and who got past it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from vlmdefense_demo import masking
from vlmdefense_demo.benchmark.plan import UNDEFENDED, Setting, Step
from vlmdefense_demo.benchmark.scene import Scene
from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.judging import predict
from vlmdefense_demo.run import Meter, Run
from vlmdefense_demo.types import Cost, Images, Logits, RungName

REPEATS = 3
TOGETHER = 64  # passes; many views of many pictures at once would not fit into memory
# Picture of the batch -> (radius, an image of it that got past a defence).
Broken = defaultdict[int, list[tuple[float, Images]]]


@dataclass(frozen=True)
class Found:
    """What one step found out about a batch.

    Args:
        standing: (B,) whether each picture is still answered rightly after this step and those before.
        costs: one a picture, or one that all of them share.
        flags: one tuple a picture, or none.
        error: why there is nothing, "" if there is.
    """

    standing: Tensor
    costs: Sequence[Cost]
    flags: Sequence[tuple[str, ...]] = ()
    error: str = ""

    def each(self) -> Iterator[dict[str, Any]]:
        """What a picture took, passes of the image and the text tower and seconds, and its flags."""
        share = len(self.costs) / len(self.standing)
        for i in range(len(self.standing)):
            cost = self.costs[min(i, len(self.costs) - 1)]
            yield {
                "f": share * cost.image_forward, "b": share * cost.image_backward,
                "tf": share * cost.text_forward, "tb": share * cost.text_backward,
                "s": round(share * cost.seconds, 4),
                "flags": list(self.flags[i]) if self.flags else [],
            }  # fmt: skip


@dataclass
class Trial:
    """One setting of one defence on one batch: its answers, and who got past it.

    Args:
        broken: what broke a sibling, which the attackers of this one try first.
    """

    scene: Scene
    setting: Setting
    broken: Broken

    def __post_init__(self) -> None:
        self.method: Defender = self.setting.build()
        self.kin = self.setting.kin

    def steps(self) -> Iterator[tuple[Step, float, Found]]:
        """Every step of the plan, in the order an attacker climbs.

        A picture that fell at a smaller radius, or to an attacker before, is not attacked again: its
        adversarial twin lies in the larger ball, too.
        """
        scene, plan = self.scene, self.scene.plan
        clean, cost = self._right(scene.x)
        if "clean" in plan.steps:
            yield "clean", 0.0, Found(clean, [cost])
        if "latency" in plan.steps:
            yield "latency", 0.0, Found(clean, self._alone())
        if "gradient" in plan.steps:
            yield "gradient", 0.0, self._gradient(clean)
        standing = dict.fromkeys(plan.rungs, clean)
        for eps in plan.eps:
            if "transfer" not in plan.steps and not plan.rungs:
                return
            images, spent = scene.attacked(eps)
            held = clean & self._right(images)[0]
            if "transfer" in plan.steps:
                yield "transfer", eps, Found(held, [spent])
            for rung in plan.rungs:
                held = held & standing[rung]
                costs = [Cost() for _ in clean]
                for i in held.nonzero().flatten().tolist():
                    fell, costs[i] = self._attack(rung, eps, i, images[i : i + 1])
                    held[i] = not fell
                standing[rung] = held
                yield rung, eps, Found(held, costs)

    def _attack(self, rung: RungName, eps: float, i: int, transferred: Images) -> tuple[bool, Cost]:
        """Whether the attacker of a rung gets picture i past the defence, and what that took.

        One picture at a time: each is left as soon as it has fallen. What kin took is not counted.
        """
        scene, known = self.scene, [image for radius, image in self.broken[i] if radius <= eps]
        if rung == "adaptive" and self.kin:
            transferred, _ = scene.adaptive(self.kin, eps, i, transferred)
            known.append(transferred)
        with scene.clf.meter.stage() as asked:
            fell = not all(self._holds(image, i) for image in known)
        if fell:
            return fell, asked
        image, climbed = self._climb(rung, eps, i, transferred)
        with scene.clf.meter.stage() as judged:
            fell = not self._holds(image, i)
        if fell:
            self.broken[i].append((eps, image))
        return fell, asked + climbed + judged

    def _climb(
        self, rung: RungName, eps: float, i: int, transferred: Images
    ) -> tuple[Images, Cost]:
        """Picture i as the attacker of a rung makes it, and what that took."""
        scene = self.scene
        if rung == "adaptive":
            return scene.adaptive(self.setting, eps, i, transferred)
        attempt = scene.opponent(self.setting, eps, i).rungs()[rung][1]
        with scene.clf.meter.stage() as cost:
            image = attempt(scene.x[i : i + 1], transferred)
        return image, cost

    def _holds(self, image: Images, i: int) -> bool:
        return bool(self._right(image, [i])[0])

    def _right(self, x: Images, rows: list[int] | None = None) -> tuple[Tensor, Cost]:
        """(B,) whether each picture, or those of `rows`, get their own label, in the shared draw."""
        scene = self.scene
        asked = torch.arange(len(scene.x)) if rows is None else torch.tensor(rows)
        passes = self.method.expected_cost(len(scene.task.labels)).image_forward
        together = max(1, TOGETHER // passes)
        right = []
        with torch.no_grad(), scene.clf.meter.stage() as cost:
            for some, images in zip(asked.split(together), x.split(together), strict=True):
                run = scene.run.select(some.tolist()).child("judge")
                logits = self.method(scene.judge, images, run=run).logits
                right.append(~scene.goal.select(some).reached(logits))
        return torch.cat(right), cost

    def _alone(self) -> list[Cost]:
        """What each picture costs by itself, nothing remembered: the median time of three."""
        scene, costs = self.scene, []
        for i in range(len(scene.x)):
            run, x = scene.run.select([i]).child("judge"), scene.x[i : i + 1]
            costs.append(_timed(partial(self.method, scene.clf, x, run=run), scene.clf.meter))
        return costs

    def _gradient(self, clean: Tensor) -> Found:
        """GM2, GM3, GM5 and GM11, picture by picture: many views of a batch may not fit into memory."""
        scene, costs, flags = self.scene, [], []
        for i in range(len(scene.x)):
            run, x = scene.run.select([i]).child("judge"), scene.x[i : i + 1]
            goal = scene.goal.select(torch.tensor([i]))
            answer = partial(self._answer, run)
            with scene.clf.meter.stage() as cost:
                found = masking.slope(answer, x, goal).flags()
                with torch.no_grad():
                    [own] = predict(scene.task.labels, answer(x))
                    [bare] = predict(scene.task.labels, scene.judge(x))
            costs.append(cost)
            if self.setting.id != UNDEFENDED:  # which is what others are compared with
                found += masking.inactive(own, bare)
            flags.append(found + masking.probabilities(own))
        return Found(clean, costs, flags)

    def _answer(self, run: Run, x: Images) -> Logits:
        return self.method(self.scene.clf, x, run=run).logits


def _timed(answer: Callable[[], object], meter: Meter) -> Cost:
    costs = []
    for _ in range(1 + REPEATS):
        with torch.no_grad(), meter.stage() as cost:
            answer()
        costs.append(cost)
    # The first of them pays for what ran before it, and for what a request pays once.
    return replace(costs[-1], seconds=median(cost.seconds for cost in costs[1:]))
