"""Defences against the bare passes they consist of, timed in pairs; towers against the undefended model.

A ratio is the median of the pairs' own, so that it holds when the machine's speed drifts. Where a
library filters the picture first, its own call on an array that is ready for it counts among the bare
passes.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from vlmdefense_demo.defenses.multiview import MultiView
from vlmdefense_demo.defenses.test_time.rtpt import RTPT
from vlmdefense_demo.defenses.training_time.towers import RobustTower
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.engine import compare
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Run
from vlmdefense_demo.speed.clock import LABELS, noise, seconds
from vlmdefense_demo.speed.published import rtpt_as_published
from vlmdefense_demo.survey import entry, first, usable
from vlmdefense_demo.types import Cost, Images

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
VIEWS = 64


@dataclass(frozen=True)
class Ratio:
    """Seconds of something and of the bare passes it is made of, pair by pair."""

    name: str
    pairs: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        ms, bare = (1000 * statistics.median(times) for times in zip(*self.pairs, strict=True))
        ratio = statistics.median(work / passes for work, passes in self.pairs)
        return f"{self.name:34} {ms:8.1f} ms   bare passes {bare:8.1f} ms   ratio {ratio:.2f}"


def defences(backbone: Backbone, repeats: int = 15) -> Iterator[str]:
    """Lines: each defence against its passes, R-TPT against its authors' code, a whole run."""
    clf = ZeroShotClassifier(backbone, LABELS)
    x = noise(backbone, 1)
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
    x = noise(backbone, 1)
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


def _against(name: str, work: Callable[[], None], passes: Callable[[], None], n: int) -> Ratio:
    """`n` pairs of the work and its bare passes, after one that warms up; each goes first in turn."""
    pairs = []
    for i in range(n + 1):
        if i % 2:
            bare, worked = seconds(passes), seconds(work)
        else:
            worked, bare = seconds(work), seconds(passes)
        pairs.append((worked, bare))
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
    ratio = statistics.median(seconds(theirs) / seconds(ours) for _ in range(n))
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
