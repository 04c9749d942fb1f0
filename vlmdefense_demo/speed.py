"""Where the time goes, as ratios taken in one run: the figures of docs/measurements.md.

Every figure is a ratio to the bare passes through the towers that it consists of. Both are timed in
pairs, and the ratio is the median of the pairs' own, so that it holds when the machine's speed drifts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.engine import compare
from vlmdefense_demo.geometry import from_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Run
from vlmdefense_demo.survey import entry, first, usable
from vlmdefense_demo.types import Cost, Goal, Images

LABELS = ("cat", "dog", "lion", "cheetah", "coffee", "rocket", "person", "tower", "motorcycle",
          "car")  # fmt: skip
# A budget of about twenty passes each, spent to the end.
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 10, "stop_early": False},
    "mi_fgsm": {"steps": 10},
    "pgd_l2": {"steps": 10},
    "apgd_ce": {"steps": 10},
    "apgd_dlr": {"steps": 10},
    "square": {"eps": 1, "queries": 20},
    "embedding": {"steps": 10},
    "patch": {"steps": 10, "place": "centre"},
    "ddn": {"steps": 10},
    "cw": {"searches": 1, "steps": 10},
}


@dataclass(frozen=True)
class Ratio:
    """Seconds of something and of the bare passes it is made of, pair by pair."""

    name: str
    pairs: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        seconds, bare = (1000 * statistics.median(times) for times in zip(*self.pairs, strict=True))
        ratio = statistics.median(work / passes for work, passes in self.pairs)
        return f"{self.name:34} {seconds:8.1f} ms   bare passes {bare:8.1f} ms   ratio {ratio:.2f}"


def measure(backbone: Backbone, repeats: int = 15) -> Iterator[str]:
    """Lines: each attack and defence against its passes, first card, default run."""
    clf = ZeroShotClassifier(backbone, LABELS)
    size = backbone.preprocess.size
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0))
    x = from_levels(noise).to(backbone.device)
    goal = Goal(clf(x).argmax(1))
    for id, values in ATTACKS.items():
        found = entry(id, "attack")
        attacker = found.build(values)

        def attack(attacker: Attacker = attacker) -> None:
            with torch.no_grad():
                attacker(clf, x, goal, run=Run())

        with clf.meter.stage() as spent:
            attack()
        yield str(_against(found.title, attack, clf, x, spent, repeats))
    for row in map(entry, usable(backbone.name)):
        method = row.build({"tau": 4} if row.id == "ttc" else {})
        cost = method.expected_cost(len(LABELS))

        def defend(method: object = method) -> None:
            with torch.no_grad():
                method(clf, x, run=Run())  # type: ignore[operator]

        yield str(_against(row.title, defend, clf, x, cost, repeats))
    yield from _comparison(backbone, x)


def _against(
    name: str, work: Callable[[], None], clf: ZeroShotClassifier, x: Images, cost: Cost, n: int
) -> Ratio:
    """`n` pairs of the work and its bare passes, after one that warms up; each goes first in turn."""
    pairs = []
    for i in range(n + 1):
        if i % 2:
            bare, seconds = _seconds(lambda: _bare(clf, x, cost)), _seconds(work)
        else:
            seconds, bare = _seconds(work), _seconds(lambda: _bare(clf, x, cost))
        pairs.append((seconds, bare))
    return Ratio(name, tuple(pairs[1:]))


def _bare(clf: ZeroShotClassifier, x: Images, cost: Cost) -> None:
    """The counted passes through the towers alone: no logits, no loss, no step.

    Forwards that need no gradient run as one batch where the method sends one.
    """
    for _ in range(cost.image_backward):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(clf.encode_image(leaf, normalize=False).sum(), leaf)
    single = cost.image_forward - cost.image_backward
    with torch.no_grad():
        if cost.text_forward:
            clf.encode_image(x.expand(single, -1, -1, -1), normalize=False)
        else:
            for _ in range(single):
                clf.encode_image(x, normalize=False)
    if cost.text_forward:
        prompts = clf.context_prompts()
        context = prompts.initial.clone().requires_grad_()
        if cost.text_backward:
            torch.autograd.grad(clf.encode_context(prompts, context).sum(), context)
        with torch.no_grad():
            clf.encode_context(prompts, prompts.initial)


def _comparison(backbone: Backbone, x: Images) -> Iterator[str]:
    request = Request(x.cpu(), LABELS, defenses={id: {} for id in first(backbone.name)})
    list(compare(request, backbone))
    start = time.perf_counter()
    cards = compare(request, backbone)
    next(cards)
    early = time.perf_counter() - start
    for _ in cards:
        pass
    total = time.perf_counter() - start
    yield f"first card {early:.2f} s, default comparison {total:.2f} s, on {backbone.device}"


def _seconds(work: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
