"""Per-sample losses an attacker ascends, at the model's own logit scale.

Each takes (logits, labels, allies): `allies` (B, K) marks the labels that count as the same answer
as `labels`. All return (B,), larger = further from `labels`. Cross-entropy is scale dependent, so
attacks use the model's true scale (CE on bare cosines is a weak attack); DLR is shift and scale
invariant and needs three labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.types import Labels, Logits, Loss


def cross_entropy(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) minus the log-probability that any label of the group is the answer."""
    return -logits.log_softmax(1).masked_fill(~allies, -torch.inf).logsumexp(1)


def margin(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) best logit outside the label's group minus best inside: positive means fooled."""
    outside = logits.masked_fill(allies, -torch.inf).amax(1)
    inside = logits.masked_fill(~allies, -torch.inf).amax(1)
    return outside - inside


def dlr(logits: Logits, labels: Labels, allies: Tensor) -> Tensor:
    """(B,) difference of logits ratio: -(z_y - max_{j!=y} z_j) / (z_(1) - z_(3)).

    Labels of one group count as one, its best: otherwise a group of two would fill the first ranks
    and the ratio would be constant. Below three answers the bare margin is left.
    Source: Croce & Hein, ICML 2020, eq. 6. Raises InvalidLabels below three labels.
    """
    if logits.shape[1] < 3:
        raise InvalidLabels(
            f"The DLR loss expects at least 3 labels, got {logits.shape[1]}.",
            "Add a label or choose another loss.",
        )
    top = _ranked(logits, allies, 3)
    gain = margin(logits, labels, allies)
    ratio = gain / (top[:, 0] - top[:, 2] + 1e-12)
    return torch.where(top[:, 2].isinf(), gain, ratio)


def dlr_targeted(logits: Logits, allies: Tensor, target: Labels) -> Tensor:
    """(B,) -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2); the bare margin below four answers.

    z_y is the best logit of the group to leave, `allies` (B, K) bool, which counts as one.

    Source: Croce & Hein, ICML 2020, eq. 7.
    """
    best = logits.masked_fill(~allies, -torch.inf).amax(1)
    gain = -(best - logits.gather(1, target[:, None]).squeeze(1))
    if logits.shape[1] < 4:
        return gain
    top = _ranked(logits, allies, 4)
    ratio = gain / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)
    return torch.where(top[:, 3].isinf(), gain, ratio)


def _ranked(logits: Logits, allies: Tensor, n: int) -> Tensor:
    """(B, n) the largest logits with only the best of the allies among them, else -inf."""
    best = logits.masked_fill(~allies, -torch.inf).argmax(1, keepdim=True)
    other = allies.scatter(1, best, False)
    return logits.masked_fill(other, -torch.inf).topk(n, dim=1).values


def divergence(p: Logits, q: Logits) -> Tensor:
    """(B,) KL(softmax p || softmax q), in nats; gradients flow into both."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
