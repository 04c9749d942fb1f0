"""What all defences share on one batch: pictures, words, and the pictures attackers made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from vlmdefense_demo.benchmark.plan import Plan, Setting
from vlmdefense_demo.benchmark.remember import Remembering
from vlmdefense_demo.benchmark.tasks import Task
from vlmdefense_demo.benchmark.worlds import corrupted
from vlmdefense_demo.geometry import LEVELS, Ball
from vlmdefense_demo.images import read_upload, to_pixels
from vlmdefense_demo.labels import plain
from vlmdefense_demo.ladder import Opponent
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Meter, Run
from vlmdefense_demo.types import Cost, Goal, Images


@dataclass
class Scene:
    """What all defences share on one batch."""

    plan: Plan
    backbone: Backbone
    task: Task
    seed: int
    should_stop: Callable[[], bool] = bool
    clf: ZeroShotClassifier = field(init=False)
    judge: ZeroShotClassifier = field(init=False)  # the same one, which encodes no picture twice
    x: Images = field(init=False)
    goal: Goal = field(init=False)
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self._attacked: dict[float, tuple[Images, Cost]] = {}
        self._adaptive: dict[tuple[str, float, int], tuple[Images, Cost]] = {}
        asked = [setting.attacked for setting in self.plan.defenses]
        asked += [setting.kin.attacked for setting in self.plan.defenses if setting.kin]
        self._shared = {name for name, n in Counter(asked).items() if n > 1}
        self._ready = False

    def attacked(self, eps: float) -> tuple[Images, Cost]:
        """The batch as attacked without knowing any defence, and what that took."""
        if eps not in self._attacked:
            attacker = self.plan.attacker(eps)
            run = self.run.child(f"{self.plan.attack}/{eps:g}")
            with self.clf.meter.stage() as cost:
                found = attacker(self.clf, self.x, self.goal, run=run)
                images = attacker.ball.quantise(found, self.x)
            self._attacked[eps] = images, cost
        return self._attacked[eps]

    def opponent(self, setting: Setting, eps: float, i: int, name: str = "") -> Opponent:
        """Who attacks picture i through a defence, from its own place in the seed tree or a shared one."""
        return Opponent(
            setting.build(),
            self.clf,
            self.goal.select(torch.tensor([i])),
            Ball("linf", eps / LEVELS),
            self.plan.budget,
            self.run.select([i]).child(f"attacker/{name or setting.name}/{eps:g}"),
        )

    def adaptive(
        self, setting: Setting, eps: float, i: int, transferred: Images
    ) -> tuple[Images, Cost]:
        """Picture i as the adaptive attacker of a defence makes it, and what that took.

        Once for all settings he takes for one, and for all their kin; the same whether these are in
        the plan or not.
        """
        name = setting.attacked
        place = name, eps, i
        if place in self._adaptive:
            return self._adaptive[place]
        with self.clf.meter.stage() as cost:
            opponent = self.opponent(setting, eps, i, name)
            image = opponent.adaptive(self.x[i : i + 1], transferred)
        if name in self._shared:
            self._adaptive[place] = image, cost
        return image, cost

    def prepare(self) -> None:
        """Decode the pictures and encode the words; late, because a batch that is done needs neither."""
        if self._ready:
            return
        how, pictures = self.backbone.preprocess, self.task.pictures
        images = [how.fit(read_upload(p.data).image) for p in pictures]
        x, ids = torch.cat([to_pixels(image) for image in images]), tuple(p.key for p in pictures)
        self.x = self.backbone.place(corrupted(x, self.task.world, ids))
        meter = Meter(self.backbone.device)
        with torch.no_grad():
            self.clf = ZeroShotClassifier(
                self.backbone, self.task.labels, self.plan.template, meter=meter
            )
        self.judge = self.clf.with_backbone(Remembering(self.backbone))
        places = {label.casefold(): i for i, label in enumerate(self.task.labels)}
        right = [places[plain(p.label).casefold()] for p in pictures]
        self.goal = Goal(torch.tensor(right, device=self.x.device))
        self.run = Run(self.seed, ids, "", meter, should_stop=self.should_stop)
        self._ready = True
