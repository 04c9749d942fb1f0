"""Per-sample losses an attacker ascends, at the model's own logit scale.

Each takes (logits, labels, allies): `allies` (B, K) bool marks the labels that count as the same
answer as `labels`; None, the usual case, says that each counts alone, in fewer operations. All return
(B,), larger = further from `labels`. Cross-entropy is scale dependent, so attacks use the model's
true scale (CE on bare cosines is a weak attack); DLR is shift and scale invariant and needs three
labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.types import Labels, Logits, Loss


def cross_entropy(logits: Logits, labels: Labels, allies: Tensor | None) -> Tensor:
    """(B,) minus the log-probability that any label of the group is the answer."""
    if allies is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -logits.log_softmax(1).masked_fill(~allies, -torch.inf).logsumexp(1)


def margin(logits: Logits, labels: Labels, allies: Tensor | None) -> Tensor:
    """(B,) best logit outside the label's group minus best inside: positive means fooled."""
    if allies is None:
        own = labels[:, None]
        with torch.no_grad():
            other = logits.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        best, inside = logits.gather(1, torch.cat((other, own), 1)).unbind(1)
        return best - inside
    outside = logits.masked_fill(allies, -torch.inf).amax(1)
    inside = logits.masked_fill(~allies, -torch.inf).amax(1)
    return outside - inside


def dlr(logits: Logits, labels: Labels, allies: Tensor | None) -> Tensor:
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
    best, values, places = _ranked(logits, labels, allies, 3)
    runner_up = torch.where(places[:, :1] == best, places[:, 1:2], places[:, :1])
    chosen = torch.cat((runner_up, best, places[:, ::2]), 1)
    other, own, first, third = logits.gather(1, chosen).unbind(1)
    ratio = (other - own) / (first - third + 1e-12)
    return ratio if allies is None else torch.where(values[:, 2].isinf(), other - own, ratio)


def dlr_targeted(logits: Logits, labels: Labels, allies: Tensor | None, target: Labels) -> Tensor:
    """(B,) -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2); the bare margin below four answers.

    z_y is the best logit of the group to leave, which counts as one.

    Source: Croce & Hein, ICML 2020, eq. 7.
    """
    best, values, places = _ranked(logits, labels, allies, min(4, logits.shape[1]))
    chosen = torch.cat((target[:, None], best, places), 1)
    other, own, first, *rest = logits.gather(1, chosen).unbind(1)
    if logits.shape[1] < 4:
        return other - own
    _, third, fourth = rest
    ratio = (other - own) / (first - 0.5 * (third + fourth) + 1e-12)
    return ratio if allies is None else torch.where(values[:, 3].isinf(), other - own, ratio)


def _ranked(
    logits: Logits, labels: Labels, allies: Tensor | None, n: int
) -> tuple[Labels, Tensor, Tensor]:
    """The place of the best ally (B, 1), and (B, n) the largest logits and their places.

    Only the best of the allies is among these, the others count as -inf. No gradient: what depends on
    the logits is gathered afterwards, in one step that is cheap to walk back.
    """
    with torch.no_grad():
        if allies is None:
            return labels[:, None], *logits.topk(n, dim=1)
        best = logits.masked_fill(~allies, -torch.inf).argmax(1, keepdim=True)
        others = allies.scatter(1, best, False)
        return best, *logits.masked_fill(others, -torch.inf).topk(n, dim=1)


def divergence(p: Logits, q: Logits) -> Tensor:
    """(B,) KL(softmax p || softmax q), in nats; gradients flow into both."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
