"""Predictions, verdicts and names of labels: what logits say, and whether that is right."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.labels import plain
from vlmdefense_demo.types import Logits, Prediction, Verdict


def predict(labels: tuple[str, ...], logits: Logits) -> list[Prediction]:
    """(B, K) logits -> one prediction a row.

    Raises:
        MethodFailed: a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise MethodFailed("The method produced logits that are not finite on this image.")
    probs: Tensor = logits.detach().cpu().double().softmax(1)  # MPS has no float64
    return [
        Prediction(labels, tuple(p), tuple(z))
        for p, z in zip(probs.tolist(), logits.tolist(), strict=True)
    ]


def judge(clean: Prediction | None, attacked: Prediction, right: Collection[str]) -> Verdict:
    """Wrong before the attack, held, or fooled; `right` are the labels that count as right."""
    if clean is not None and clean.label not in right:
        return "wrong_clean"
    return "held" if attacked.label in right else "fooled"


def find_label(labels: tuple[str, ...], wanted: str) -> int:
    """The position of a label a person named.

    Raises:
        InvalidLabels: it is not in the list.
    """
    name = plain(wanted).casefold()
    if not name:
        raise InvalidLabels("There is no target label.", "Write one, or choose another goal.")
    for i, label in enumerate(labels):
        if label.casefold() == name:
            return i
    raise InvalidLabels(
        f"“{wanted[:40]}” is not among the labels.", f"Choose one of: {', '.join(labels[:12])}."
    )
