"""FARE's training objective. The inference side is defenses/training_time/fare.py."""

from __future__ import annotations

from torch import Tensor

from vlmdefense_demo.types import Features


def fare_objective(attacked: Features, original: Features) -> Tensor:
    """(B,) squared distance of un-normalised embeddings, summed over dimensions.

    Source: Schlarmann et al., ICML 2024 (arXiv 2402.12336), eq. 3: label-free, so the tower keeps
    its meaning for every text tower behind it.
    """
    return (attacked - original).square().sum(1)
