"""From a request to cards: attack once, judge the delivered file, run every defence on it.

Data flows one way: Request -> clean prediction -> adversarial PNG (`stage`) -> one card a defence,
its checks and its attackers (`side`); a card is yielded again whenever it grows. Page, API, export
and trials all consume this iterator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.request import Request, check_request
from vlmdefense_demo.run import Progress, silent
from vlmdefense_demo.side import Side
from vlmdefense_demo.stage import Stage
from vlmdefense_demo.survey import entry
from vlmdefense_demo.types import Card

logger = logging.getLogger(__name__)


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
        its attacked row, one card a defence in the request's order; then, if there was an attack,
        every card again with its gradient checks and exhibits (where they are asked for), and once
        more after each rung of its ladder.

    Raises:
        DemoError: the request itself cannot be run; a defence's own error becomes its card.
        Cancelled: `should_stop` returned True; raised within one step.
    """
    check_request(request)
    stage = Stage(request, backbone, on_progress, should_stop)
    yield stage.undefended()
    if request.attack is not None:
        yield stage.attack(request.attack)
    sides = _sides(stage)
    for side in sides:
        yield side.defend()
    if request.attack is not None:
        yield from _after(stage, [side for side in sides if side.card.error is None])
    logger.info("%s on %s: %s", request.attack, backbone.name, ", ".join(request.defenses))


def _after(stage: Stage, sides: list[Side]) -> Iterator[Card]:
    """What waits until every answer is there: looks, checks, exhibits; then the ladders."""
    request = stage.request
    if request.looks:
        stage.look()
    if request.checks:
        stage.check()
    if request.looks or request.checks:
        yield stage.card
    for side in sides:
        if request.exhibits:
            side.exhibit()
        if request.checks:
            side.check()
        if request.exhibits or request.checks:
            yield side.card
    for side in sides:
        yield from side.climb()


def redefend(request: Request, backbone: Backbone, earlier: Card) -> Iterator[Card]:
    """The defences of a request again, on the file an earlier run of it made.

    Args:
        earlier: the undefended card of that run, with its attack.
    """
    check_request(request)
    stage = Stage(request, backbone, silent, bool)
    stage.resume(earlier)
    for side in _sides(stage):
        if side.defend().error is None:
            if request.exhibits:
                side.exhibit()
            if request.checks:
                side.check()
        yield side.card


def _sides(stage: Stage) -> list[Side]:
    """One a defence, in the request's order."""
    return [
        Side(stage, entry(id, "defense"), entry(id, "defense").build(dict(values)))
        for id, values in stage.request.defenses.items()
    ]
