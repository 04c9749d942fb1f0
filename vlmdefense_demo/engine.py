"""From a request to cards: attack once, judge the delivered file, run every defence on it.

Data flows one way: Request -> clean prediction -> adversarial PNG -> one card a defence. Page, API,
export and benchmark all consume this iterator. The engine, not the attack, quantises, encodes and
judges, so an attack cannot cheat.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from vlmdefense_demo.errors import Cancelled, DemoError, InvalidLabels
from vlmdefense_demo.images import from_png, to_array, to_png
from vlmdefense_demo.judging import judge, predict, request_label
from vlmdefense_demo.labels import DEFAULT_TEMPLATE, clean_labels, clean_template
from vlmdefense_demo.measure import distances
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Meter, Progress, Run, silent
from vlmdefense_demo.spec import build, shown
from vlmdefense_demo.survey import Entry, entry
from vlmdefense_demo.types import (
    AttackReport,
    AttackResult,
    Card,
    Cost,
    DefenseResult,
    Goal,
    Images,
    Prediction,
)

logger = logging.getLogger(__name__)
Values = Mapping[str, Any]
# One run of a few milliseconds says little about its time on a shared machine.
SHORT, REPEATS = 0.5, 3


@dataclass(frozen=True)
class Request:
    """One comparison.

    Args:
        image: (1, 3, H, W) at the model's size, on the 8-bit grid.
        labels: 2 to 100 labels.
        template: with one ``{}``.
        attack: id of an attack, its parameters in display units; None only classifies.
        defenses: id -> parameters in display units, in the order of the cards.
        reference: the true label, if a person knows it; else the undefended clean answer.
        target: the label the attack should reach; None for untargeted.
        seed: of all noise.
    """

    image: Images
    labels: Sequence[str]
    template: str = DEFAULT_TEMPLATE
    attack: str | None = "pgd"
    attack_params: Values = field(default_factory=dict)
    defenses: Mapping[str, Values] = field(default_factory=dict)
    reference: str | None = None
    target: str | None = None
    seed: int = 0


def compare(
    request: Request,
    backbone: Backbone,
    *,
    on_progress: Progress = silent,
    should_stop: Callable[[], bool] = bool,
) -> Iterator[Card]:
    """Run a request.

    Yields:
        the undefended card with its clean row alone, the same card with the attack's report and
        its attacked row, then one card a defence, in the request's order.

    Raises:
        DemoError: the request itself cannot be run; a defence's own error becomes its card.
        Cancelled: `should_stop` returned True; raised within one step.
    """
    check_request(request)
    defenses = [
        (row := entry(id, "defense"), row.build(dict(values)))
        for id, values in request.defenses.items()
    ]
    stage = _Stage(request, backbone, on_progress, should_stop)
    yield stage.undefended()
    if request.attack is not None:
        attacker = entry(request.attack, "attack").build(dict(request.attack_params))
        yield stage.attack(request.attack, attacker)
    for row, method in defenses:
        yield stage.defend(row, method)
    logger.info("%s on %s: %s", request.attack, backbone.name, ", ".join(request.defenses))


class _Stage:
    """The state of one comparison; lives and dies with its iterator."""

    def __init__(
        self,
        request: Request,
        backbone: Backbone,
        on_progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self.request = request
        self.meter = Meter(backbone.device)
        with torch.no_grad():
            self.clf = ZeroShotClassifier(
                backbone, request.labels, request.template, meter=self.meter
            )
        self.x = request.image.to(backbone.device)
        self.adversarial: Images | None = None
        digest = hashlib.blake2b(to_array(self.x).tobytes(), digest_size=8).hexdigest()
        self.run = Run(
            request.seed, (digest,), "", self.meter, on_progress, should_stop=should_stop
        )
        self.card = Card("undefended", "Undefended", "none", "", True, str(backbone.device))

    def undefended(self) -> Card:
        """The clean row, and the label every verdict refers to."""
        clean, cost = self._plain(self.x)
        reference = request_label(self.clf.labels, self.request.reference) or clean.label
        pseudo = self.request.reference is None
        self.card = replace(self.card, clean=clean, reference=reference, pseudo=pseudo, cost=cost)
        return self.card

    def attack(self, id: str, attacker: Any) -> Card:
        """Make the file, measure the file, classify the file."""
        run = self.run.child(id)
        goal, targeted = self._goal()
        with self.meter.stage() as cost:
            raw = attacker(self.clf, self.x, goal, run=run)
            png = to_png(attacker.ball.quantise(raw, self.x))
            self.adversarial = from_png(png).to(self.x)
            with torch.no_grad():
                success = bool(goal.reached(self.clf(self.adversarial)))
        margins = tuple(float(m) for m in run.trace.get("margin", ()))
        report = AttackReport(
            method=id,
            params=shown(attacker),
            success=success,
            targeted=targeted,
            steps_used=cost.image_backward,
            cost=cost,
            png=png,
            margins=margins,
            **distances(to_array(self.x), to_array(self.adversarial)),
        )
        attacked, plain = self._plain(self.adversarial)
        self.card = replace(
            self.card,
            attacked=attacked,
            cost=plain,
            slowdown=1.0,
            attack=report,
            verdict=judge(self.card.clean, attacked, self.card.reference),
        )
        return self.card

    def defend(self, row: Entry, method: Any) -> Card:
        """One defence on both images; its own failure stays on its own card."""
        blank = replace(
            self.card,
            method=row.id,
            title=row.title,
            paradigm=row.paradigm,
            params=shown(method),
            clean=None,
            attacked=None,
            verdict=None,
            cost=None,
            slowdown=None,
            attack=None,
            flags=row.flags,
        )
        try:
            clean, cost, result = self._defended(row, method, self.x)
            attacked = None
            if self.adversarial is not None:
                attacked, cost, result = self._defended(row, method, self.adversarial)
        except Cancelled:
            raise
        except (DemoError, torch.cuda.OutOfMemoryError) as error:
            return replace(blank, error=str(error))
        plain = self.card.cost.seconds if self.card.cost else 0.0
        return replace(
            blank,
            clean=clean,
            attacked=attacked,
            verdict=judge(clean, attacked, blank.reference) if attacked else None,
            cost=cost,
            slowdown=cost.seconds / plain if plain else None,
            notes=result.notes[0] if result.notes else (),
        )

    def _plain(self, x: Images) -> tuple[Prediction, Cost]:
        result, cost = self._timed(lambda: DefenseResult(self.clf(x)))
        return predict(self.clf.labels, result.logits)[0], cost

    def _defended(
        self, row: Entry, method: Any, x: Images
    ) -> tuple[Prediction, Cost, DefenseResult]:
        run = self.run.child(row.id)
        run.step(0, 1)  # a method of a single pass does not poll by itself
        result, cost = self._timed(lambda: method(self.clf, x, run=run))
        return predict(self.clf.labels, result.logits)[0], cost, result

    def _timed(self, classify: Callable[[], DefenseResult]) -> tuple[DefenseResult, Cost]:
        """One run's result and passes; the seconds of a short run are the median of repeats.

        The first of several is left out: it pays for what ran before it (caches, freed memory).
        """
        seconds: list[float] = []
        while True:
            with torch.no_grad(), self.meter.stage() as cost:
                result = classify()
            seconds.append(cost.seconds)
            if cost.seconds > SHORT or len(seconds) == 1 + REPEATS:
                return result, replace(cost, seconds=median(seconds[1:] or seconds))

    def _goal(self) -> tuple[Goal, bool]:
        target = request_label(self.clf.labels, self.request.target)
        if target == self.card.reference:
            raise InvalidLabels(
                f"The target “{target}” is already the answer.", "Choose another target label."
            )
        label = self.clf.labels.index(target or self.card.reference)
        return Goal(torch.tensor([label], device=self.x.device), target is not None), bool(target)


def attack(
    id: str, clf: ZeroShotClassifier, x: Images, goal: Goal, *, seed: int = 0, **params: Any
) -> AttackResult:
    """Attack a batch and judge it on the 8-bit grid.

    Args:
        x: (B, 3, H, W) on the 8-bit grid.
        params: the attack's fields in pixel units, e.g. ``eps=4 / 255``.
    """
    attacker = _make(entry(id, "attack"), params)
    run = Run(seed, tuple(map(str, range(len(x)))), f"/{id}", clf.meter)
    with clf.meter.stage() as cost:
        images = attacker.ball.quantise(attacker(clf, x, goal, run=run), x)
        with torch.no_grad():
            success = goal.reached(clf(images))
    traces = {k: torch.stack(v).T.tolist() for k, v in run.trace.items()}
    rows = tuple({k: v[i] for k, v in traces.items()} for i in range(len(x)))
    return AttackResult(images, success, cost, rows)


def defend(
    id: str, clf: ZeroShotClassifier, x: Images, *, seed: int = 0, **params: Any
) -> DefenseResult:
    """Classify a batch under a defence, in the ambient grad mode; the result carries its cost.

    Args:
        x: (B, 3, H, W).
        params: the defence's fields in pixel units.
    """
    row = entry(id, "defense")
    run = Run(seed, tuple(map(str, range(len(x)))), f"/{id}", clf.meter)
    with clf.meter.stage() as cost:
        result = _make(row, params)(clf, x, run=run)
    return replace(result, cost=cost)


def _make(row: Entry, params: Values) -> Any:
    """An instance from pixel-unit parameters; unknown names get the same message as elsewhere."""
    build(row.cls, dict.fromkeys(params.keys() - row.cls.__dataclass_fields__.keys()))  # type: ignore[attr-defined]
    return row.cls(**params)


def check_request(request: Request) -> tuple[str, ...]:
    """Everything that can be refused before a model is loaded; returns the clean labels."""
    labels = clean_labels(request.labels)
    clean_template(request.template)
    request_label(labels, request.reference)
    request_label(labels, request.target)
    if request.attack is not None:
        entry(request.attack, "attack").build(dict(request.attack_params))
    for id, values in request.defenses.items():
        entry(id, "defense").build(dict(values))
    return labels
