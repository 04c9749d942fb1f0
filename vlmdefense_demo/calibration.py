"""Thresholds of the detectors, and what they are worth, measured on photos.

    python -m vlmdefense_demo calibrate --images DIR

Thresholds come from clean photos of the sets that are not for validation (those a model may have seen
in training: only whether a picture is clean matters here). What they are worth is measured on the
validation set: false alarms, detections and AUC against PGD that does not know the detector, and the
alarms that are left when it does. Every photo gets its own word and nine others as labels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.benchmark.sources import BUNDLED_NAME, read_source
from vlmdefense_demo.detectors.base import Detector
from vlmdefense_demo.detectors.evasion import Evasion
from vlmdefense_demo.detectors.thresholds import (
    FALSE_ALARMS,
    Against,
    Calibrated,
    Calibration,
    Share,
    auc,
    roc,
    threshold_at,
)
from vlmdefense_demo.errors import InvalidImage, InvalidParameter
from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.images import read_upload, to_pixels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import shown
from vlmdefense_demo.survey import detector, methods
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, read_photos
from vlmdefense_demo.training.report import PLAIN_LABELS, wilson
from vlmdefense_demo.types import Goal, Images

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
N_LABELS = 10
# The attacker who knows aims this far below the threshold: the 8-bit file is not the last iterate.
AIM = 0.95
Scores = dict[str, float]  # detector -> score


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        photos: clean ones for the thresholds.
        attacked: validation photos for false alarms and detections.
        known: the first of these, attacked by PGD that knows the detector; 0 leaves that out.
        eps: radii in grey levels; the bundled pairs and the attacker who knows have the last one.
        steps: of PGD that does not know.
        known_steps: of PGD that knows.
    """

    photos: int = 300
    attacked: int = 100
    known: int = 32
    eps: tuple[float, ...] = (1, 4)
    steps: int = 10
    known_steps: int = 20

    def __post_init__(self) -> None:
        if not self.eps or self.photos < 1 / FALSE_ALARMS or self.attacked < 1:
            raise InvalidParameter(
                f"A threshold of {FALSE_ALARMS:.0%} false alarms needs a radius, at least "
                f"{1 / FALSE_ALARMS:.0f} photos and one that is attacked.",
                "Raise --photos and --attacked.",
            )

    @property
    def recipe(self) -> str:
        """In words."""
        radii = " and ".join(f"{e:g}" for e in self.eps)
        return (
            f"PGD, {self.steps} steps, ε {radii} of 255; {N_LABELS} labels a photo, seed 0; who knows "
            f"the detector: PGD with a term against its score, {self.known_steps} steps, "
            f"ε {self.eps[-1]:g}"
        )


@dataclass(frozen=True)
class Case:
    """A photo with the labels it is asked with."""

    name: str
    data: bytes
    labels: tuple[str, ...]


def calibrate(plan: Plan, backbone: Backbone, folder: Path) -> Calibrated:
    """Everything `assets/detectors.json` says about one model.

    Raises:
        InvalidImage: the folder has no photos to calibrate on, or none to measure on.
    """
    detectors = {id: detector(row)() for id, row in methods("detector").items()}
    calibration, measured = cases(read_photos(folder), plan)
    bench = _Bench(plan, backbone, detectors)
    clean = [bench.clean(case) for case in tqdm(calibration, mininterval=5)]
    thresholds = {id: threshold_at([scores[id] for scores in clean]) for id in detectors}
    before = [bench.clean(case) for case in tqdm(measured, mininterval=5)]
    after = {
        eps: [bench.attacked(case, eps) for case in tqdm(measured, mininterval=5)]
        for eps in plan.eps
    }
    bundled = [Case(p.key, p.data, tuple(PLAIN_LABELS)) for p in read_source(BUNDLED_NAME).pictures]
    pairs = [(bench.clean(case), bench.attacked(case, plan.eps[-1])) for case in bundled]
    rows = {}
    for id in detectors:
        t, own = thresholds[id], [scores[id] for scores in clean]
        new = [scores[id] for scores in before]
        found = {eps: [scores[id] for scores in some] for eps, some in after.items()}
        rows[id] = Calibration(
            threshold=t,
            params=shown(detectors[id]),
            quantiles={f"{q:g}": threshold_at(own, 1 - q) for q in QUANTILES},
            n=len(own),
            false_alarms=_share([s > t for s in new]),
            against=tuple(
                Against(
                    eps, _share([s > t for s in some]), round(auc(new, some), 4), roc(new, some)
                )
                for eps, some in found.items()
            ),
            knowing=bench.knowing(id, t, measured[: plan.known]),
            tried=len(measured[: plan.known]),
            clean=tuple(one[id] for one, _ in pairs),
            attacked=tuple(two[id] for _, two in pairs),
        )
    names = tuple(Path(case.name).stem for case in bundled)
    return Calibrated(backbone.name, plan.recipe, date.today().isoformat(), names, rows)


def cases(photos: Sequence[Photo], plan: Plan) -> tuple[list[Case], list[Case]]:
    """Photos to calibrate on and photos to measure on, drawn by a fixed seed; no photo is in both."""
    validation = [p for p in photos if p.source.startswith(VALIDATION_ONLY)]
    others = [p for p in photos if not p.source.startswith(VALIDATION_ONLY) and not p.held_out]
    if not validation or not others:
        raise InvalidImage(
            f"Calibration needs a set whose name starts with {VALIDATION_ONLY!r}, and another one.",
            "Point --images at a folder of both.",
        )
    return _drawn(others, plan.photos), _drawn(validation, plan.attacked)


def _drawn(photos: Sequence[Photo], n: int) -> list[Case]:
    words = sorted({_word(p) for p in photos})
    some = random.Random(0).sample(list(photos), min(n, len(photos)))
    return [Case(p.file, p.data, (_word(p), *_others(p, words))) for p in some]


def _word(photo: Photo) -> str:
    return photo.label.replace("_", " ")


def _others(photo: Photo, words: Sequence[str]) -> list[str]:
    rest = [w for w in words if w != _word(photo)]
    return random.Random(photo.file).sample(rest, min(N_LABELS - 1, len(rest)))


@dataclass(frozen=True)
class _Bench:
    """Measures one photo after another, so that memory does not grow with their number."""

    plan: Plan
    backbone: Backbone
    detectors: dict[str, Detector]

    def clean(self, case: Case) -> Scores:
        """Scores of the photo as it is."""
        clf, x = self._open(case)
        return {id: self._score(id, clf, x, case) for id in self.detectors}

    def attacked(self, case: Case, eps: float) -> Scores:
        """Scores of the 8-bit file an attacker makes who knows no detector."""
        clf, x = self._open(case)
        attack = PGD(eps=eps / LEVELS, steps=self.plan.steps)
        images = attack(clf, x, _goal(clf, x), run=self._run("pgd", case))
        file = attack.ball.quantise(images, x)
        return {id: self._score(id, clf, file, case) for id in self.detectors}

    def knowing(self, id: str, threshold: float, some: Sequence[Case]) -> Share | None:
        """Alarms among the files that fool, of an attacker who knows this detector."""
        alarms = list(self._alarms(id, threshold, some))
        return _share(alarms) if alarms else None

    def _alarms(self, id: str, threshold: float, some: Sequence[Case]) -> Iterator[bool]:
        evasion = Evasion(eps=self.plan.eps[-1] / LEVELS, steps=self.plan.known_steps)
        for case in tqdm(some, mininterval=5):
            clf, x = self._open(case)
            goal, run = _goal(clf, x), self._run("evasion", case)
            images = evasion(self.detectors[id], AIM * threshold, clf, x, goal, run=run)
            file = PGD(eps=evasion.eps).ball.quantise(images, x)
            with torch.no_grad():
                fooled = bool(goal.reached(clf(file)))
            if fooled:
                yield self._score(id, clf, file, case) > threshold

    def _open(self, case: Case) -> tuple[ZeroShotClassifier, Images]:
        with torch.no_grad():
            clf = ZeroShotClassifier(self.backbone, case.labels)
        how = self.backbone.preprocess
        picture = how.fit(read_upload(case.data).image)
        return clf, self.backbone.place(to_pixels(picture))

    def _score(self, id: str, clf: ZeroShotClassifier, x: Images, case: Case) -> float:
        """To four digits, from which everything else is computed."""
        result = self.detectors[id](clf, x, run=self._run(id, case))
        return float(f"{float(result.scores):.4g}")

    def _run(self, path: str, case: Case) -> Run:
        return Run(0, (case.name,), f"/{path}")


def _goal(clf: ZeroShotClassifier, x: Images) -> Goal:
    """Away from the model's own answer."""
    with torch.no_grad():
        return Goal(clf(x).argmax(1))


def _share(hits: Sequence[bool]) -> Share:
    low, high = wilson(sum(hits), len(hits))
    return Share(sum(hits), len(hits), round(low, 4), round(high, 4))


def table(found: Calibrated) -> Iterator[str]:
    """Lines for the terminal."""
    yield f"{found.model}, {found.date}: {found.recipe}"
    for id, row in found.detectors.items():
        yield (
            f"{id:15} threshold {row.threshold:.3f} of {row.n} photos; false alarms "
            f"{percent(row.false_alarms)}"
        )
        for against in row.against:
            yield (
                f"{'':15} ε {against.eps:g}: detected {percent(against.detected)}, "
                f"AUC {against.auc:.3f}"
            )
        if row.knowing is not None:
            yield (
                f"{'':15} who knows it: detected {percent(row.knowing)} that fool, "
                f"{row.tried} tried"
            )


def percent(share: Share) -> str:
    """ "5.0 % [2.2, 11.2] of 100" """
    rate = 100 * share.hits / share.n
    return f"{rate:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of {share.n}"
