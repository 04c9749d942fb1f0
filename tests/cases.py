"""What the contracts in test_contracts.py need to know about each method.

A new method works with the default case, except that an attack must state its cost. `base` are
parameters (pixel units) that are quick and make the method do something; `matter` gives, where
turning one field of `base` would show nothing, the pair of settings that differ in that field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vlmdefense_demo.spec import Choice, Field, Range

Params = dict[str, Any]


def linf_ball(params: Params, delta: Tensor) -> bool:
    """No pixel moved by more than eps; other geometries bring their own function."""
    return bool(delta.abs().max() <= params["eps"] + 1e-6)


@dataclass(frozen=True)
class Case:
    base: Params = field(default_factory=dict)
    matter: dict[str, tuple[Params, Params]] = field(default_factory=dict)
    also: tuple[Params, ...] = ()  # more settings in which a batch must equal its single images
    inside: Callable[[Params, Tensor], bool] = linf_ball  # attacks: is this perturbation allowed?
    cost: Callable[[Params], tuple[int, int]] | None = None  # attacks: forwards, backwards


CASES: dict[str, Case] = {
    "fgsm": Case(cost=lambda p: (1, 1)),
    "pgd": Case(
        base={"steps": 3, "stop_early": False},
        matter={
            "stop_early": (
                {"steps": 9, "eps": 32 / 255, "stop_early": False},
                {"steps": 9, "eps": 32 / 255, "stop_early": True},
            )
        },
        also=({"steps": 3, "restarts": 2, "eps": 2 / 255},),
        cost=lambda p: (p["steps"], p["steps"]),
    ),
    "rtpt": Case(base={"views": 4, "learning_rate": 0.02}),
    "ttc": Case(
        base={"tau": 4.0, "steps": 2},
        matter={"tau": ({"tau": 4.0}, {"tau": 0.0})},
    ),
}


def case(id: str) -> Case:
    return CASES.get(id, Case())


def turned(f: Field, value: Any) -> Any:
    """Another valid value of a field."""
    if isinstance(f.domain, Choice):
        return next(option for option in f.domain.options if option != value)
    if f.kind is bool:
        return not value
    assert isinstance(f.domain, Range), f"{f.name} declares no domain"
    low, high = f.domain.low, f.domain.high
    if f.kind is int:
        return value + 1 if value < high else value - 1
    return (low + high) / 2 if value != (low + high) / 2 else high
