"""The learning-rate schedules of the training loops."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warm_up: float, peak: float) -> float:
    """Linear warm-up over a share of the run, then cosine to zero."""
    warm = max(1, round(warm_up * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def epoch_cosine(epoch: int, epochs: int, peak: float, low: float = 1e-5) -> float:
    """CoOp's schedule: a first epoch at `low`, then cosine from `peak`, constant within an epoch.

    The cosine counts from the second epoch on but over all of them, so it does not reach zero.
    """
    if epoch == 0:
        return low
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
