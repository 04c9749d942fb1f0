"""The attacker over many photos: success of every attack, and the ladder of every defence.

    python -m vlmdefense_demo trial --images DIR --photos 200 --eps 1,2,4 --attacks pgd,apgd_ce
    python -m vlmdefense_demo trial --images DIR --photos 200 --eps 4 --defenses fare,rtpt,ttc

One JSON line a result, appended as it is measured: a killed run goes on where it stopped, and
several processes may share the photos (`--shard 0/2`). Every photo gets its own ten labels, its own
word and nine other words of its set; what is measured is `compare`, photo by photo, as on the page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmdefense_demo.benchmark.plan import Setting
from vlmdefense_demo.benchmark.rows import cut_torn_line
from vlmdefense_demo.engine import compare
from vlmdefense_demo.images import load_image
from vlmdefense_demo.ladder import INTERACTIVE, Budget
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.fingerprint import fingerprint
from vlmdefense_demo.request import Request
from vlmdefense_demo.survey import entry
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, read_photos
from vlmdefense_demo.trial_report import Row, read_rows
from vlmdefense_demo.types import Card, RungName

N_LABELS = 10


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        attacks: ids; with more than one only the undefended model is attacked.
        defenses: ids, each shown the image of the first attack.
        eps: radii in grey levels; attacks without a radius run once.
        rungs: attackers who know the defence, each from scratch on every photo.
        settings: method id -> parameters in display units.
    """

    attacks: tuple[str, ...]
    eps: tuple[float, ...]
    defenses: tuple[str, ...] = ()
    rungs: tuple[RungName, ...] = ()
    budget: Budget = INTERACTIVE
    settings: dict[str, dict[str, Any]] | None = None

    def company(self) -> list[str]:
        """What is tried beside the attack, and with which settings."""
        settings = json.dumps(self.settings or {}, sort_keys=True)
        return [*sorted(self.defenses), *self.rungs, settings, str(self.budget)]

    def cells(self) -> Iterator[tuple[str, float | None]]:
        """Every attack with every radius it knows."""
        for id in self.attacks:
            for eps in self.eps if entry(id, "attack").takes("eps") else (None,):
                yield id, eps


def measure(
    plan: Plan, backbone: Backbone, photos: Sequence[tuple[Photo, tuple[str, ...]]], file: Path
) -> None:
    """Append the missing rows of a plan to a JSONL file."""
    company = [*plan.company(), *_weights(plan, backbone)]
    done = {key(row) for row in read_rows(file)} if file.exists() else set()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        cut_torn_line(file)
    with file.open("a", encoding="utf-8") as out:
        for photo, labels in tqdm(photos, mininterval=5):
            for attack, eps in plan.cells():
                if (photo.file, attack, eps, *company) in done:
                    continue
                rows = _rows(plan, backbone, photo, labels, (attack, eps), company)
                out.write("".join(f"{json.dumps(row)}\n" for row in rows))
                out.flush()


def key(row: Row) -> tuple[Any, ...]:
    """What makes a measurement the same one: photo, attack, radius, what was tried with which weights."""
    return (row["photo"], row["attack"], row["eps"], *row["with"])


def _weights(plan: Plan, backbone: Backbone) -> list[str]:
    """The model, and all that was trained for it and is asked."""
    trained = (Setting(id).weights(backbone.name) for id in sorted(plan.defenses))
    return [backbone.name, fingerprint(backbone.model), *chain.from_iterable(trained)]


def _rows(
    plan: Plan,
    backbone: Backbone,
    photo: Photo,
    labels: tuple[str, ...],
    cell: tuple[str, float | None],
    company: Sequence[str],
) -> Iterator[Row]:
    """All cards of one photo under one attack, a row each rung."""
    attack, eps = cell
    settings = plan.settings or {}
    request = Request(
        load_image(photo.data, backbone.preprocess.size),
        labels,
        attack=attack,
        attack_params=settings.get(attack, {}) | ({} if eps is None else {"eps": eps}),
        defenses={id: settings.get(id, {}) for id in plan.defenses},
        reference=photo.label,
        rungs=plan.rungs,
        climb=False,
        budget=plan.budget,
        repeats=0,
        checks=bool(plan.defenses),
    )
    cards = {card.method: card for card in compare(request, backbone)}
    common = {"photo": photo.file, "attack": attack, "eps": eps, "with": company}
    for card in cards.values():
        for row in _rungs(card):
            yield common | {"defense": card.method, "flags": list(card.flags)} | row


def _rungs(card: Card) -> Iterator[Row]:
    clean = bool(card.clean and card.clean.label in card.right)
    if card.attack is not None and card.attacked is not None:
        report, right = card.attack, card.attacked.label in card.right
        yield {"rung": "undefended", "clean": clean, "verdict": card.verdict, "right": right,
               "l2": report.l2, "linf": report.linf, "f": report.cost.image_forward,
               "b": report.cost.image_backward, "s": round(report.cost.seconds, 3)}  # fmt: skip
    for rung in card.ladder:
        yield {"rung": rung.name, "clean": clean, "verdict": rung.verdict,
               "right": rung.attacked.label in card.right, "wrong": rung.wrong, "linf": rung.linf, "f": rung.cost.image_forward, "b": rung.cost.image_backward,
               "s": round(rung.cost.seconds, 3)}  # fmt: skip
    if card.error:
        yield {"rung": "error", "clean": clean, "verdict": None, "error": card.error}


def chosen_photos(
    folder: Path, n: int, shard: tuple[int, int] = (0, 1)
) -> list[tuple[Photo, tuple[str, ...]]]:
    """Validation photos in an order fixed by seed, every `shard[1]`-th, each with ten labels."""
    photos = [p for p in read_photos(folder) if p.source.startswith(VALIDATION_ONLY)]
    words = sorted({p.label for p in photos})
    order = random.Random(0).sample(photos, min(n, len(photos)))
    return [(p, _labels(p, words)) for p in order[shard[0] :: shard[1]]]


def _labels(photo: Photo, words: Sequence[str]) -> tuple[str, ...]:
    others = [w for w in words if w != photo.label]
    return (photo.label, *random.Random(photo.file).sample(others, N_LABELS - 1))
