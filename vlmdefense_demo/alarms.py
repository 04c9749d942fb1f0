"""What every detector says about the two pictures of a comparison that has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.detectors.thresholds import Calibration, calibrated
from vlmdefense_demo.errors import Cancelled
from vlmdefense_demo.failures import FAILURES
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.request import Request
from vlmdefense_demo.run import Progress
from vlmdefense_demo.spec import shown
from vlmdefense_demo.stage import Stage
from vlmdefense_demo.survey import detector, methods
from vlmdefense_demo.types import Card, Cost, Note

Word = Literal["alarm", "no alarm", "false alarm", "missed"]


@dataclass(frozen=True)
class Reading:
    """One detector on the clean picture and on the attacked file.

    Args:
        device: where it ran.
        cost: of the attacked file alone, a warm run like a card's.
        calibration: its threshold on this model, None before one was measured.
        notes: on the attacked file, and curves of both.
        error: in place of everything else.
    """

    detector: str
    device: str
    clean: float = 0.0
    attacked: float = 0.0
    cost: Cost = field(default_factory=Cost)
    calibration: Calibration | None = None
    notes: tuple[Note, ...] = ()
    error: str | None = None

    def words(self) -> tuple[Word, Word] | None:
        """What it says of the clean picture and of the attacked one; None without a threshold."""
        if self.calibration is None:
            return None
        return (
            "false alarm" if self.calibration.alarm(self.clean) else "no alarm",
            "alarm" if self.calibration.alarm(self.attacked) else "missed",
        )


def read(
    request: Request,
    backbone: Backbone,
    earlier: Card,
    *,
    on_progress: Progress,
    should_stop: Callable[[], bool],
) -> Iterator[Reading]:
    """Every detector on the file an earlier run of a request made, one after another.

    Args:
        earlier: the undefended card of that run, with its attack.

    Raises:
        Cancelled: `should_stop` returned True; a detector's own error becomes its reading.
    """
    stage = Stage(request, backbone, on_progress, should_stop)
    stage.resume(earlier)
    measured = calibrated(backbone.name)
    for id, row in methods("detector").items():
        method, found = detector(row)(), None
        if measured is not None and id in measured.detectors:
            found = measured.detectors[id]
        if found is not None and dict(found.params) != shown(method):
            found = None  # it was measured for other settings
        try:
            reading = _reading(stage, id, method)
        except Cancelled:
            raise
        except FAILURES as error:
            reading = Reading(id, str(backbone.device), error=str(error))
        yield replace(reading, calibration=found)


def _reading(stage: Stage, id: str, method: Detector) -> Reading:
    x, file, run = stage.x, stage.adversarial, stage.run.child(id)
    assert file is not None
    clean = method(stage.clf, x, run=run)
    result, cost = stage.timed(lambda: method(stage.clf, file, run=run))
    with torch.no_grad():
        curves = method.exhibit(stage.clf, torch.cat([x, file]), run=run)
    return Reading(
        id, str(x.device), float(clean.scores), float(result.scores), cost,
        notes=(*result.notes[0], *curves),
    )  # fmt: skip
