"""Cards made by hand, so that what they show is known."""

from __future__ import annotations

from typing import Any

from vlmdefense_demo.types import AttackReport, Card, Cost, Note, Prediction

HOSTILE = ("<img src=x onerror=alert(1)>", "${alert(1)}", "{{x}}", "cat")


def prediction(labels: tuple[str, ...], *probs: float) -> Prediction:
    return Prediction(labels, probs, probs)


def attack(**changes: Any) -> AttackReport:
    facts: dict[str, Any] = {
        "method": "pgd", "params": {"eps": 4, "steps": 10}, "success": True, "targeted": False,
        "steps_used": 3, "linf": 4.0, "l2": 5.1, "changed": 0.97, "psnr": 38.4, "ssim": 0.94,
        "cost": Cost(image_forward=4, image_backward=3, seconds=0.14), "png": b"png",
        "margins": (-1.0, 0.5, 2.0),
    }  # fmt: skip
    return AttackReport(**(facts | changes))


def undefended(labels: tuple[str, ...] = ("cat", "dog", "lion", "car"), **changes: Any) -> Card:
    facts: dict[str, Any] = {
        "clean": prediction(labels, 0.7, 0.2, 0.06, 0.04),
        "attacked": prediction(labels, 0.1, 0.2, 0.65, 0.05),
        "verdict": "fooled", "cost": Cost(image_forward=1, seconds=0.021), "slowdown": 1.0,
        "attack": attack(),
    }  # fmt: skip
    return Card(
        "undefended",
        "Undefended",
        "none",
        labels[0],
        True,
        "cpu",
        right=labels[:1],
        **(facts | changes),
    )


def defended(
    method: str = "fare",
    labels: tuple[str, ...] = ("cat", "dog", "lion", "car"),
    **changes: Any,
) -> Card:
    from vlmdefense_demo.spec import fields, shown
    from vlmdefense_demo.survey import entry

    row = entry(method)
    facts: dict[str, Any] = {
        "clean": prediction(labels, 0.6, 0.2, 0.15, 0.05),
        "attacked": prediction(labels, 0.5, 0.3, 0.15, 0.05),
        "verdict": "held", "cost": Cost(image_forward=8, image_backward=4, seconds=0.031),
        "slowdown": 9.1, "params": shown(row.cls()) if fields(row.cls) else {},
        "notes": (Note("gate", "shut"),), "flags": row.flags,
    }  # fmt: skip
    return Card(
        method,
        row.title,
        row.paradigm,
        labels[0],
        True,
        "cpu",
        right=labels[:1],
        **(facts | changes),
    )
