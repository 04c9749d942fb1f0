"""For scripts: attack a batch, defend a batch, with parameters in pixel units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import build
from vlmdefense_demo.survey import Entry, entry
from vlmdefense_demo.types import AttackResult, DefenseResult, Goal, Images


def attack(
    id: str, clf: ZeroShotClassifier, x: Images, goal: Goal, *, seed: int = 0, **params: Any
) -> AttackResult:
    """Attack a batch and judge it on the 8-bit grid.

    Args:
        x: (B, 3, H, W) on the 8-bit grid.
        params: the attack's fields in pixel units, e.g. ``eps=4 / 255``.

    Raises:
        InvalidParameter: inference mode is on.
    """
    _check_mode()
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
        id: of a defence, or of two in a row: "fare+ttc", whose fields are ``ttc_steps`` and the like.
        x: (B, 3, H, W).
        params: the defence's fields in pixel units.

    Raises:
        InvalidParameter: inference mode is on.
    """
    _check_mode()
    method = _make(entry(id, "defense"), params)
    run = Run(seed, tuple(map(str, range(len(x)))), f"/{id}", clf.meter)
    with clf.meter.stage() as cost:
        result = method(clf, x, run=run)
    return replace(result, cost=cost)


def _check_mode() -> None:
    """Attacks and half of the defences differentiate, which inference mode forbids even where asked to."""
    if torch.is_inference_mode_enabled():
        raise InvalidParameter(
            "Attacks and defences need gradients, which torch.inference_mode() does not allow.",
            "Use torch.no_grad() instead.",
        )


def _make(row: Entry, params: Mapping[str, Any]) -> Any:
    """An instance from pixel-unit parameters; unknown names get the same message as elsewhere."""
    build(row.cls, dict.fromkeys(params.keys() - row.cls.__dataclass_fields__.keys()))  # type: ignore[attr-defined]
    return row.cls(**params)
