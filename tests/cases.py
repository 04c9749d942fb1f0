"""What the contracts in test_contracts.py need to know about each method.

A new method works with the default case, except that an attack must state its cost. `base` are
parameters (pixel units) that are quick and make the method do something; `matter` gives, where
turning one field of `base` would show nothing, the pair of settings that differ in that field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlmdefense_demo.spec import Choice, Field, Range

Params = dict[str, Any]
TOWERS = ("vit", "resnet")


@dataclass(frozen=True)
class Case:
    base: Params = field(default_factory=dict)
    matter: dict[str, tuple[Params, Params]] = field(default_factory=dict)
    also: tuple[Params, ...] = ()  # more settings in which a batch must equal its single images
    cost: Callable[[Params], tuple[int, int]] | None = None  # attacks: forwards, backwards
    exact: bool = True  # False: sums over a batch round, so only the answers must agree
    at_most: bool = False  # the cost depends on the image; the formula is its upper bound
    towers: tuple[str, ...] = TOWERS  # defences: tiny models it works on; it refuses the others


EARLY = (
    {"eps": 32 / 255, "stop_early": False},
    {"eps": 32 / 255, "stop_early": True},
)


def early(**base: Any) -> dict[str, tuple[Params, Params]]:
    """Stopping early shows where the ball is large enough to win."""
    one, two = ({**base, **settings} for settings in EARLY)
    return {"stop_early": (one, two)}


def l2_too(**base: Any) -> dict[str, tuple[Params, Params]]:
    """The L2 radius of an attack that knows two balls matters in the L2 ball only."""
    return {"radius": ({**base, "norm": "l2"}, {**base, "norm": "l2", "radius": 1.0})}


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
    "mi_fgsm": Case(base={"steps": 3}, cost=lambda p: (p["steps"], p["steps"])),
    "di_fgsm": Case(
        base={"steps": 3, "probability": 0.9},
        matter={
            "probability": ({"steps": 3, "probability": 0.0}, {"steps": 3, "probability": 1.0})
        },
        cost=lambda p: (p["steps"], p["steps"]),
    ),
    "pgd_l2": Case(
        exact=False,
        base={"steps": 3},
        matter={
            "stop_early": (
                {"steps": 9, "radius": 9.0},
                {"steps": 9, "radius": 9.0, "stop_early": True},
            )
        },
        also=({"steps": 3, "restarts": 1},),
        cost=lambda p: (p["steps"] + 1, p["steps"]),
    ),
    "apgd_ce": Case(
        exact=False,
        base={"steps": 4},
        matter=early(steps=9) | l2_too(steps=4),
        also=(
            {"steps": 3, "norm": "l2", "restarts": 1},
            {"steps": 9, "eps": 8 / 255, "stop_early": True},
        ),
        cost=lambda p: (p["steps"] + 1, p["steps"]),
    ),
    "apgd_dlr": Case(
        exact=False,
        base={"steps": 4},
        matter=early(steps=9) | l2_too(steps=4),
        cost=lambda p: (p["steps"] + 1, p["steps"]),
    ),
    "apgd_t": Case(
        base={"steps": 3},
        matter=early(steps=9) | l2_too(steps=3),
        also=({"steps": 3, "eps": 8 / 255, "stop_early": True},),
        cost=lambda p: (3 * (p["steps"] + 1) + 1, 3 * p["steps"]),  # four labels: three targets
    ),
    "square": Case(
        exact=False,
        base={"queries": 40, "eps": 2 / 255},
        cost=lambda p: (p["queries"], 0),
        at_most=True,
    ),
    "autoattack": Case(base={"eps": 32 / 255}, cost=lambda p: (7900, 1900), at_most=True),
    "embedding": Case(base={"steps": 3}, cost=lambda p: (p["steps"] + 2, p["steps"])),
    "caption": Case(base={"steps": 3}, cost=lambda p: (p["steps"] + 1, p["steps"])),
    "image_target": Case(base={"steps": 3}, cost=lambda p: (p["steps"] + 1, p["steps"])),
    "typographic": Case(
        matter={"size": ({"size": 0.3}, {"size": 0.2})},
        cost=lambda p: (16 + (p["word"] == "wrong label"), 0),
    ),
    "patch": Case(
        base={"steps": 3, "area": 0.1},
        matter={
            "stop_early": (
                {"steps": 40, "area": 0.3, "stop_early": False},
                {"steps": 40, "area": 0.3, "stop_early": True},
            )
        },
        also=({"steps": 3, "printable": True, "place": "centre"},),
        cost=lambda p: (p["steps"] + 1 + 9 * (p["place"] == "best of 9"), p["steps"]),
    ),
    "ddn": Case(exact=False, base={"steps": 6}, cost=lambda p: (p["steps"] + 1, p["steps"])),
    "cw": Case(
        base={"steps": 5, "searches": 2, "learning_rate": 0.05},
        matter={
            "trade": (
                {"steps": 5, "searches": 1, "trade": 0.001},
                {"steps": 5, "searches": 1, "trade": 100.0},
            )
        },
        cost=lambda p: (p["steps"] * p["searches"],) * 2,
    ),
    "universal": Case(cost=lambda p: (0, 0)),
    "noise": Case(cost=lambda p: (p["draws"], 0)),
    "blur": Case(base={"eps": 32 / 255}, cost=lambda p: (0, 0)),
    "jpeg_control": Case(base={"eps": 32 / 255}, cost=lambda p: (0, 0)),
    **{
        id: Case(
            base={"alpha": 0.5},
            matter={"trained_eps": ({"trained_eps": "largest"}, {"trained_eps": "2"})},
        )
        for id in ("fare", "tecoa", "pmg_aft", "tga_zsr")
    },
    "fap": Case(towers=("vit",)),
    "ensemble": Case(base={"views": 4}),
    **{
        id: Case(base={"views": 4, "learning_rate": 0.02})
        for id in ("tpt", "ctpt", "rtpt", "atpt", "sstpt")
    },
    **{id: Case(base={"views": 4}) for id in ("tvss", "tte", "mta")},
    "tapt": Case(
        base={"views": 4, "learning_rate": 0.01},
        matter={"alignment": ({"views": 4, "alignment": 0.0}, {"views": 4, "alignment": 100.0})},
    ),
    "ttp": Case(
        base={"views": 4, "threshold": 1.0},
        matter={
            "threshold": ({"threshold": 1.0}, {"threshold": 0.0}),
            "border": ({"threshold": 1.0, "border": 32}, {"threshold": 1.0, "border": 64}),
        },
    ),
    "smoothing": Case(base={"views": 16, "sigma": 0.2}),
    "agc": Case(base={"views": 5}),
    "aom": Case(base={"views": 5}),
    "hd": Case(
        base={"steps": 3},
        matter={"eps": ({"steps": 3, "eps": 4 / 255}, {"steps": 3, "eps": 8 / 255})},
    ),
    "mac": Case(
        base={"threshold": 0.0, "steps": 2},
        matter={"threshold": ({"threshold": 0.0}, {"threshold": 4.0})},
    ),
    "dbd": Case(
        base={"views": 4, "threshold": 0.0},
        matter={"threshold": ({"views": 4, "threshold": 0.0}, {"views": 4, "threshold": 1.0})},
    ),
    "zero": Case(
        base={"views": 8, "share": 0.5},
        matter={"share": ({"views": 8, "share": 0.1}, {"views": 8, "share": 1.0})},
    ),
    "clipure_cos": Case(
        base={"step_size": 0.1, "steps": 3},
        matter={
            "gradient": (
                {"step_size": 0.1, "steps": 3, "gradient": "as coded"},
                {"step_size": 0.1, "steps": 3, "gradient": "past the steps"},
            )
        },
    ),
    "nlm": Case(base={"strength": 16 / 255}),
    "csr": Case(
        base={"threshold": 1.0, "steps": 2},
        matter={
            "threshold": ({"threshold": 1.0}, {"threshold": 0.0}),
            "eps": ({"threshold": 1.0, "eps": 1 / 255}, {"threshold": 1.0, "eps": 4 / 255}),
        },
    ),
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
