"""Calibrated thresholds and what was measured with them, model by model, as `calibrate` wrote them."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlmdefense_demo.models.catalog import ASSETS

FILE = ASSETS / "detectors.json"
FALSE_ALARMS = 0.05
Roc = list[tuple[float, float]]


@dataclass(frozen=True)
class Share:
    """Hits among n pictures, with the 95 % Wilson interval."""

    hits: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Against:
    """A detector against PGD of one radius, whose attacker does not know it.

    Args:
        eps: in grey levels.
        detected: alarms among the attacked files, whether they fool or not.
        roc: corners of the curve, as (false alarms, detections).
    """

    eps: float
    detected: Share
    auc: float
    roc: Roc


@dataclass(frozen=True)
class Calibration:
    """One detector on one model.

    Args:
        threshold: alarm above it; at most 5 % of the clean calibration photos are.
        params: of the detector, in display units; the threshold belongs to them alone.
        quantiles: share -> score of the clean calibration photos.
        n: how many those are.
        false_alarms: alarms for clean photos that were not calibrated on.
        against: the same photos, attacked.
        knowing: alarms among files that fool, made by PGD that knows the detector, at the last radius;
            None where none fools.
        tried: photos that attacker had.
        clean, attacked: scores of the photos that ship inside dependencies, in the same order.
    """

    threshold: float
    params: Mapping[str, Any]
    quantiles: Mapping[str, float]
    n: int
    false_alarms: Share
    against: tuple[Against, ...]
    knowing: Share | None
    tried: int
    clean: tuple[float, ...]
    attacked: tuple[float, ...]

    def alarm(self, score: float) -> bool:
        """Whether a score raises the alarm."""
        return score > self.threshold


@dataclass(frozen=True)
class Calibrated:
    """All detectors of one model.

    Args:
        recipe: photos and attack in words.
        date: of the measurement, ISO.
        bundled: captions of the photos whose scores are kept.
    """

    model: str
    recipe: str
    date: str
    bundled: tuple[str, ...]
    detectors: Mapping[str, Calibration]

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


@cache
def _read(file: Path) -> dict[str, Calibrated]:
    if not file.exists():
        return {}
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {name: _calibrated(data) for name, data in entries.items()}


def calibrated(model: str, file: Path = FILE) -> Calibrated | None:
    """What was measured on a model, None before that."""
    return _read(file).get(model)


def write(found: Calibrated, file: Path = FILE) -> None:
    """Add a model's entry to the file, or replace it."""
    entries = {name: entry.to_json() for name, entry in _read(file).items()}
    entries[found.model] = found.to_json()
    file.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _read.cache_clear()


def threshold_at(clean: Sequence[float], share: float = FALSE_ALARMS) -> float:
    """The smallest of the clean scores that at most `share` of them exceed."""
    ordered = sorted(clean)
    allowed = math.floor(share * len(ordered) + 1e-9)
    return ordered[len(ordered) - 1 - allowed]


def auc(clean: Sequence[float], attacked: Sequence[float]) -> float:
    """How often an attacked score lies above a clean one; equal ones count half."""
    wins = sum((a > c) + 0.5 * (a == c) for a in attacked for c in clean)
    return wins / (len(clean) * len(attacked))


def roc(clean: Sequence[float], attacked: Sequence[float]) -> Roc:
    """(false alarms, detections) over all thresholds, from (0, 0) to (1, 1); corners only."""
    lower, upper = sorted(clean), sorted(attacked)

    def above(ordered: Sequence[float], t: float) -> float:
        return (len(ordered) - bisect_right(ordered, t)) / len(ordered)

    cuts = sorted({*lower, *upper}, reverse=True)
    points = [*((above(lower, t), above(upper, t)) for t in cuts), (1.0, 1.0)]
    inner = zip(points, points[1:], points[2:], strict=False)
    return [points[0], *(b for a, b, c in inner if not _straight(a, b, c)), points[-1]]


def _straight(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on the level or upright line from a to c."""
    return a[0] == b[0] == c[0] or a[1] == b[1] == c[1]


def _calibrated(data: dict[str, Any]) -> Calibrated:
    rows = {id: _calibration(row) for id, row in data["detectors"].items()}
    return Calibrated(data["model"], data["recipe"], data["date"], tuple(data["bundled"]), rows)


def _calibration(row: dict[str, Any]) -> Calibration:
    against = tuple(
        Against(a["eps"], Share(**a["detected"]), a["auc"], [(x, y) for x, y in a["roc"]])
        for a in row["against"]
    )
    more = {
        "false_alarms": Share(**row["false_alarms"]),
        "against": against,
        "knowing": Share(**row["knowing"]) if row["knowing"] else None,
        "clean": tuple(row["clean"]),
        "attacked": tuple(row["attacked"]),
    }
    return Calibration(**(row | more))
