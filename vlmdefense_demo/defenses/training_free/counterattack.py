"""Pushing a picture away from its own feature: the step that TTC and MAC share."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.types import Features, Images


def boxed(x: Images, delta: Tensor, eps: float) -> Tensor:
    """The nearest change of at most `eps` a pixel that keeps x + delta in [0, 1]."""
    return (x + delta.clamp(-eps, eps)).clamp(0, 1) - x


def drift(
    clf: ZeroShotClassifier, x: Images, anchor: Features, delta: Tensor, differentiable: bool = True
) -> tuple[Tensor, Features]:
    """One forward: delta as a leaf, and (B, D) how far it moved the un-normalised features."""
    with torch.enable_grad():
        leaf = delta.detach().requires_grad_(differentiable)
        return leaf, clf.encode_image(x + leaf, normalize=False) - anchor


def pushed(x: Images, leaf: Tensor, moved: Features, step_size: float, eps: float) -> Tensor:
    """One backward: a sign step of the leaf that raises ||moved||^2, back inside ball and box."""
    with torch.enable_grad():
        gradient = torch.autograd.grad(moved.square().sum(), leaf)[0]
    return boxed(x, leaf.detach() + step_size * gradient.sign(), eps)
