"""The learning-rate schedule both training loops share."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warm_up: float, peak: float) -> float:
    """Linear warm-up over a share of the run, then cosine to zero."""
    warm = max(1, round(warm_up * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
