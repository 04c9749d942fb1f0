"""How sure a model and its defences are of the right label, as the change grows.

Two questions, two curves. *Along* the delivered change: the same change, smaller. *Again*: another
attack at every radius, each made against the undefended model. A file is judged as on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image

from vlmdefense_demo.defenses.base import Defender
from vlmdefense_demo.errors import Cancelled, InvalidParameter
from vlmdefense_demo.failures import FAILURES
from vlmdefense_demo.images import from_png, to_array, to_pixels
from vlmdefense_demo.judging import predict
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress, silent
from vlmdefense_demo.stage import Stage
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Card, Images, Paradigm, Prediction

How = Literal["along", "again"]
RADII = (1, 2, 4, 8)  # levels an attack is made at again
PARTS = 4  # of the delivered change
Point = tuple[float, Stage, Images]


@dataclass(frozen=True)
class Line:
    """One method: the probability of the right label at every radius of its curve."""

    method: str
    title: str
    paradigm: Paradigm
    probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Lines over radii.

    Args:
        how: "along" the delivered change, or attacked "again" at every radius.
        eps: largest change of a value allowed ("again") or made ("along"), in levels of 255.
        lines: the undefended model first, then the defences in the order of the request.
        failed: titles of defences that have no line, because they failed on one of the files.
    """

    how: How
    eps: tuple[float, ...]
    lines: tuple[Line, ...]
    failed: tuple[str, ...] = ()


def right_prob(answer: Prediction, right: Sequence[str]) -> float:
    """The probability of all labels that count as the right answer."""
    return sum(p for label, p in zip(answer.labels, answer.probs, strict=True) if label in right)


def draw(
    how: How,
    request: Request,
    backbone: Backbone,
    undefended: Card,
    *,
    on_progress: Progress = silent,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[Curve]:
    """The curve after each radius, from 0 upwards.

    Args:
        undefended: the card of an earlier run of this request, with its attack.

    Raises:
        InvalidParameter: the attack has no radius in levels to be made again at.
        Cancelled: `should_stop` returned True.
    """
    request = replace(request, repeats=0, rungs=())
    if how == "along":
        stage = Stage(request, backbone, on_progress, should_stop)
        stage.resume(undefended)
        points = _along(stage)
    else:
        check_radius(request)
        points = _again(request, backbone, on_progress, should_stop)
    yield from _grow(how, request, undefended, points)


def check_radius(request: Request) -> None:
    """Raise InvalidParameter for an attack whose size is not a radius in levels."""
    attacker = request.attacker()
    if attacker is None or not attacker.has_eps:
        name = entry(request.attack).title if request.attack else "Nothing"
        raise InvalidParameter(
            f"{name} has no radius in levels, so it cannot be made again at "
            f"{', '.join(map(str, RADII))}.",
            "Draw the curve along this change.",
        )


def parts_of(clean: np.ndarray, attacked: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures between two, (H, W, 3) uint8, with their L∞ distance to the first, in levels.

    Up to five: a quarter of the change, a half … each value rounded to the nearest level. The first
    is `clean`, the last is `attacked`.
    """
    delta = attacked.astype(np.int32) - clean
    top = int(np.abs(delta).max())
    for levels in sorted({round(top * i / PARTS) for i in range(PARTS + 1)}):
        moved = (2 * np.abs(delta) * levels + top) // max(2 * top, 1)  # halves away from zero
        yield levels, (clean + np.sign(delta) * moved).astype(np.uint8)


def _along(stage: Stage) -> Iterator[Point]:
    assert stage.adversarial is not None
    for levels, picture in parts_of(to_array(stage.x), to_array(stage.adversarial)):
        yield levels, stage, stage.clf.backbone.place(to_pixels(Image.fromarray(picture)))


def _again(
    request: Request, backbone: Backbone, note: Progress, stopped: Callable[[], bool]
) -> Iterator[Point]:
    assert request.attack is not None
    for eps in (0, *RADII):
        values = {**request.attack_params, "eps": eps or RADII[0]}
        stage = Stage(replace(request, attack_params=values), backbone, note, stopped)
        stage.undefended()
        if not eps:
            yield 0, stage, stage.x
            continue
        report = stage.attack(request.attack).attack
        assert report is not None
        yield eps, stage, backbone.place(from_png(report.png))


def _grow(how: How, request: Request, card: Card, points: Iterable[Point]) -> Iterator[Curve]:
    rows = {id: entry(id, "defense") for id in request.defenses}
    methods: dict[str, Defender] = {
        id: row.build(dict(request.defenses[id])) for id, row in rows.items()
    }
    lines = {"undefended": Line("undefended", card.title, "none")}
    lines |= {id: Line(id, row.title, row.paradigm) for id, row in rows.items()}
    radii: list[float] = []
    failed: list[str] = []
    for eps, stage, x in points:
        radii.append(eps)
        for id, line in list(lines.items()):
            try:
                answer = _answer(stage, id, methods.get(id), x)
            except Cancelled:
                raise
            except FAILURES:
                failed.append(lines.pop(id).title)
            else:
                prob = right_prob(answer, card.right)
                lines[id] = replace(line, probs=(*line.probs, prob))
        yield Curve(how, tuple(radii), tuple(lines.values()), tuple(failed))


def _answer(stage: Stage, id: str, method: Defender | None, x: Images) -> Prediction:
    """As the card's: the same draws at every radius."""
    run = stage.run.child(id)
    run.step(0, 1)  # a method of a single pass does not poll by itself
    with torch.no_grad():
        logits = stage.clf(x) if method is None else method(stage.clf, x, run=run).logits
    return predict(stage.clf.labels, logits)[0]
