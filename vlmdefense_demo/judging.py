"""Predictions and verdicts: what logits say, and whether that is right."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.types import Logits, Prediction, Verdict


def predict(labels: tuple[str, ...], logits: Logits) -> list[Prediction]:
    """(B, K) logits -> one prediction a row.

    Raises:
        MethodFailed: a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise MethodFailed("The method produced logits that are not finite on this image.")
    probs: Tensor = logits.double().softmax(1)
    return [
        Prediction(labels, tuple(p), tuple(z))
        for p, z in zip(probs.tolist(), logits.tolist(), strict=True)
    ]


def judge(clean: Prediction | None, attacked: Prediction, reference: str) -> Verdict:
    """Wrong before the attack, held, or fooled."""
    if clean is not None and clean.label != reference:
        return "wrong_clean"
    return "held" if attacked.label == reference else "fooled"


def request_label(labels: tuple[str, ...], wanted: str | None) -> str | None:
    """The label a person named, as it stands in the list.

    Raises:
        InvalidLabels: it is not in the list.
    """
    if wanted is None:
        return None
    for label in labels:
        if label.casefold() == " ".join(wanted.split()).casefold():
            return label
    raise InvalidLabels(
        f"“{wanted[:40]}” is not among the labels.", f"Choose one of: {', '.join(labels[:12])}."
    )
