"""Per-sample losses an attacker ascends, at the model's own logit scale.

Each takes (logits, labels, allies): `allies` (B, K) marks the labels that count as the same answer
as `labels`. All return (B,), larger = further from `labels`. Cross-entropy is scale dependent, so
attacks use the model's true scale (CE on bare cosines is a weak attack); DLR is shift and scale
invariant and needs three labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.types import Labels, Logits, Loss


def cross_entropy(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) minus the log-probability of the label."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) best logit outside the label's group minus best inside: positive means fooled."""
    outside = logits.masked_fill(allies, -torch.inf).amax(1)
    inside = logits.masked_fill(~allies, -torch.inf).amax(1)
    return outside - inside


def dlr(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) difference of logits ratio: -(z_y - max_{j!=y} z_j) / (z_(1) - z_(3)).

    Source: Croce & Hein, ICML 2020, eq. 6. Raises InvalidLabels below three labels.
    """
    if logits.shape[1] < 3:
        raise InvalidLabels(
            f"The DLR loss expects at least 3 labels, got {logits.shape[1]}.",
            "Add a label or choose another loss.",
        )
    top = logits.topk(3, dim=1).values
    return margin(logits, labels, allies) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Logits, labels: Labels, target: Labels) -> Tensor:
    """(B,) -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2); the bare margin below four labels.

    Source: Croce & Hein, ICML 2020, eq. 7.
    """
    gain = -(logits.gather(1, labels[:, None]) - logits.gather(1, target[:, None])).squeeze(1)
    if logits.shape[1] < 4:
        return gain
    top = logits.topk(4, dim=1).values
    return gain / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
