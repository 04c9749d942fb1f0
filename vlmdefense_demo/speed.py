"""Where the time goes, as ratios taken in one run: the figures of docs/measurements.md.

Attacks: the share of their time that is not spent inside the image tower, and inside the model they
attack (pixels to logits: the tower, the cosines and the temperature), read from clocks at the doors
while the attack runs, for one picture and for a batch. Defences: their time over that
of the bare passes they consist of, timed in pairs; the ratio is the median of the pairs' own, so that
it holds when the machine's speed drifts. Where a library filters the picture first, its own call on
an array that is ready for it counts among the bare passes.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.defenses.multiview import MultiView
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.training_time.towers import RobustTower
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.engine import compare
from vlmdefense_demo.geometry import LEVELS, from_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.published import rtpt_as_published
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Run
from vlmdefense_demo.survey import entry, first, usable
from vlmdefense_demo.types import Cost, Features, Goal, Images, Logits

LABELS = ("cat", "dog", "lion", "cheetah", "coffee", "rocket", "person", "tower", "motorcycle",
          "car")  # fmt: skip
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
# Settings under which a gate opens, so that all stated passes are spent.
OPEN: dict[str, dict[str, Any]] = {"ttc": {"tau": 4}, "mac": {"threshold": 0}}
# Filters of libraries, at the defences' default settings, on an (H, W, 3) picture in [0, 1].
LIBRARY: dict[str, Callable[[np.ndarray], object]] = {
    "jpeg": lambda p: _pillow(Image.fromarray((p * LEVELS).astype(np.uint8))),
    "tv": lambda p: denoise_tv_chambolle(p, weight=0.05, channel_axis=2),
    "nlm": lambda p: denoise_nl_means(
        p, patch_size=3, patch_distance=5, h=4 / LEVELS, channel_axis=2
    ),
}
BATCH = 8
VIEWS = 64


@dataclass(frozen=True)
class Ratio:
    """Seconds of something and of the bare passes it is made of, pair by pair."""

    name: str
    pairs: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        seconds, bare = (1000 * statistics.median(times) for times in zip(*self.pairs, strict=True))
        ratio = statistics.median(work / passes for work, passes in self.pairs)
        return f"{self.name:34} {seconds:8.1f} ms   bare passes {bare:8.1f} ms   ratio {ratio:.2f}"


class Clock:
    """Adds up what a function takes, forwards and backwards, while something else runs it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)`, timed."""
        entered: list[float] = []
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda _: self._note(entered[-1]))
        start = _now()
        out = function(x)
        self._note(start)
        if out.requires_grad:
            out.register_hook(lambda _: entered.append(_now()))
        return out

    def _note(self, start: float) -> None:
        self.seconds += _now() - start


class TimedTower(Backbone):
    """The same model with a clock at its image tower's doors."""

    def __init__(self, original: Backbone, clock: Clock) -> None:
        super().__init__(original.name, original.model, original.tokenizer, original.preprocess)
        self._tower, self.clock = original._tower, clock

    def encode_image(self, x: Images) -> Features:
        """As ever."""
        return self.clock(super().encode_image, x)


class TimedModel(ZeroShotClassifier):
    """The same classifier with a clock around it, from pixels to features and from those to logits."""

    def __init__(self, backbone: Backbone, clock: Clock) -> None:
        super().__init__(backbone, LABELS)
        self.clock = clock

    def encode_image(self, x: Images, normalize: bool = True) -> Features:
        """As ever."""
        return self.clock(partial(super().encode_image, normalize=normalize), x)

    def logits(self, features: Features) -> Logits:
        """As ever."""
        return self.clock(super().logits, features)


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
    batch = _noise(backbone)
    for id, values in ATTACKS.items():
        found = entry(id, "attack")
        attacker = found.build(values)
        alone, many = (
            _clocked(attacker, backbone, images, max(1, repeats // len(images)))
            for images in (batch[:1], batch)
        )
        yield str(Share(found.title, alone, many))


def defences(backbone: Backbone, repeats: int = 15) -> Iterator[str]:
    """Lines: each defence against its passes, R-TPT against its authors' code, a whole run."""
    clf = ZeroShotClassifier(backbone, LABELS)
    x = _noise(backbone)[:1]
    for row in map(entry, usable(backbone.name)):
        method = row.build(OPEN.get(row.id, {}))
        cost = method.expected_cost(len(LABELS))

        bare = partial(_bare, clf, x, cost, isinstance(method, MultiView), LIBRARY.get(row.id))
        yield str(_against(row.title, partial(_defend, method, clf, x), bare, repeats))
    yield _published(clf, x, repeats)
    yield from _comparison(backbone, x)


def towers(backbone: Backbone, repeats: int = 15) -> Iterator[str]:
    """Lines: an answer of each robust tower against one of the undefended model, its only pass."""
    clf = ZeroShotClassifier(backbone, LABELS)
    x = _noise(backbone)[:1]
    for row in map(entry, usable(backbone.name, "training_time")):
        method = row.build({})
        if isinstance(method, RobustTower):
            robust = partial(_defend, method, clf, x)
            yield str(_against(row.title, robust, partial(_answer, clf, x), repeats))


def _defend(method: Any, clf: ZeroShotClassifier, x: Images) -> None:
    with torch.no_grad():
        method(clf, x, run=Run())


def _answer(clf: ZeroShotClassifier, x: Images) -> None:
    with torch.no_grad():
        clf(x)


def _noise(backbone: Backbone) -> Images:
    size = backbone.preprocess.size
    levels = torch.randint(
        0, 256, (BATCH, 3, size, size), generator=torch.Generator().manual_seed(0)
    )
    return backbone.place(from_levels(levels))


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
            total = _seconds(lambda run=run: attacker(clf, x, goal, run=run))  # type: ignore[misc]
            runs.append(Spent(total, tower.seconds, model.seconds))
    return tuple(runs[1:])


def _against(name: str, work: Callable[[], None], passes: Callable[[], None], n: int) -> Ratio:
    """`n` pairs of the work and its bare passes, after one that warms up; each goes first in turn."""
    pairs = []
    for i in range(n + 1):
        if i % 2:
            bare, seconds = _seconds(passes), _seconds(work)
        else:
            seconds, bare = _seconds(work), _seconds(passes)
        pairs.append((seconds, bare))
    return Ratio(name, tuple(pairs[1:]))


def _bare(
    clf: ZeroShotClassifier,
    x: Images,
    cost: Cost,
    together: bool,
    library: Callable[[np.ndarray], object] | None = None,
) -> None:
    """The counted passes through the towers alone: no logits, no loss, no step.

    Forwards that need no gradient run as one batch where the method sends them `together`.
    """
    if library is not None:
        library(x[0].permute(1, 2, 0).cpu().numpy())
    for _ in range(cost.image_backward):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(clf.encode_image(leaf, normalize=False).sum(), leaf)
    single = cost.image_forward - cost.image_backward
    with torch.no_grad():
        if together:
            clf.encode_image(x.expand(single, -1, -1, -1), normalize=False)
        else:
            for _ in range(single):
                clf.encode_image(x, normalize=False)
    if cost.text_forward:
        prompts = clf.context_prompts()
        context = prompts.initial.clone().requires_grad_()
        torch.autograd.grad(clf.encode_context(prompts, context).sum(), context)


def _pillow(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=75)
    with Image.open(buffer) as image:
        return image.convert("RGB").tobytes()


def _published(clf: ZeroShotClassifier, x: Images, n: int) -> str:
    """R-TPT with the authors' 64 views against the order of work of their code, in pairs."""
    views = random_views(x, VIEWS, Run().child("views"))

    def theirs() -> None:
        rtpt_as_published(clf, views)

    def ours() -> None:
        with torch.no_grad():
            RTPT(views=VIEWS)(clf, x, run=Run())

    with clf.meter.stage() as published:
        theirs()
    with clf.meter.stage() as own:
        ours()
    ratio = statistics.median(_seconds(theirs) / _seconds(ours) for _ in range(n))
    return (
        f"R-TPT, {VIEWS} views: as published {published.passes()}, here {own.passes()}: "
        f"{ratio:.1f} times faster"
    )


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


def _seconds(work: Callable[[], object]) -> float:
    start = _now()
    work()
    return _now() - start


def _after_gpu() -> float:
    """The time when all that was given to a GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


# Asked once: looking for a GPU at every reading takes longer than the loss that is being timed.
_now = _after_gpu if torch.cuda.is_available() else time.perf_counter
