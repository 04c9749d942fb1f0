"""One loop for every defence that fine-tunes the image tower.

A method is an objective: what the tower is trained to keep under attack, and what the attack
raises. Everything else is shared: frozen text tower and scale, BatchNorm in evaluation mode, the
attack by `autograd.grad` against frozen parameters, AdamW with warm-up and cosine decay.
Checkpoints make a killed run continue where it stopped.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.checkpoint import resume, save
from vlmdefense_demo.training.photos import Photo, batches
from vlmdefense_demo.training.schedule import warm_cosine
from vlmdefense_demo.types import Features, Images

logger = logging.getLogger(__name__)


class Objective(Protocol):
    """(features under attack, clean features of the frozen original) -> (B,) to minimise."""

    def __call__(self, attacked: Features, original: Features) -> Tensor:
        """The value training lowers and the training attack raises."""
        ...


@dataclass(frozen=True)
class TowerRecipe:
    """Hyperparameters of one fine-tuning; pixel units."""

    eps: float = 3 / 255
    attack_steps: int = 1
    steps: int = 1150
    batch: int = 32
    size: int = 160
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    warm_up: float = 0.05
    ramp: float = 0.4
    seed: int = 0
    save_every: int = 100

    def radius(self, step: int) -> float:
        """eps grows linearly to its full value over the first part of the run.

        At full eps from the start a small tower collapses towards a constant embedding, which
        is the cheapest way to be insensitive, and does not come back.
        """
        return self.eps * min(1.0, (step + 1) / max(1, round(self.ramp * self.steps)))

    def rate(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        return warm_cosine(step, self.steps, self.warm_up, self.learning_rate)


def fine_tune(
    backbone: Backbone,
    photos: Sequence[Photo],
    objective: Objective,
    recipe: TowerRecipe,
    checkpoint: Path,
    start: Backbone | None = None,
) -> nn.Module:
    """Train a copy of the backbone's image tower; the backbone itself is not touched.

    Args:
        start: a robust twin to continue from; by default the backbone's own tower.
        photos: already without held-out ones; labels are not read.
        checkpoint: written every `save_every` steps, and continued from if it exists.

    Returns:
        the trained image tower, in evaluation mode.
    """
    visual = copy.deepcopy((start or backbone).visual).to(memory_format=torch.channels_last)
    student = backbone.with_visual(visual, "student")
    visual.requires_grad_(True)
    optimiser = torch.optim.AdamW(visual.parameters(), weight_decay=recipe.weight_decay)
    first = resume(checkpoint, visual, optimiser)
    data = batches(photos, recipe.size, recipe.batch, range(first, recipe.steps), recipe.seed)
    progress = tqdm(data, total=recipe.steps, initial=first, mininterval=10)
    for step, x in enumerate(progress, first):
        x = x.to(backbone.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            original = backbone.encode_image(x)
        visual.requires_grad_(False)
        attacked = _attack(student, x, original, objective, recipe, step)
        visual.requires_grad_(True)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = objective(student.encode_image(attacked), original).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            logger.info("step %d of %d, loss %.4f", step + 1, recipe.steps, loss.item())
            save(checkpoint, visual, optimiser, step + 1)
    return visual.eval().requires_grad_(False)


def _attack(
    student: Backbone,
    x: Images,
    original: Features,
    objective: Objective,
    recipe: TowerRecipe,
    step: int,
) -> Images:
    """Random start, then signed steps that can reach every corner of the ball."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 500_009)
    eps = recipe.radius(step)
    step_size = eps * (1.25 if recipe.attack_steps == 1 else 2.5 / recipe.attack_steps)
    delta = torch.empty(x.shape).uniform_(-eps, eps, generator=generator).to(x)
    for _ in range(recipe.attack_steps):
        leaf = (x + delta).clamp(0, 1).requires_grad_()
        value = objective(student.encode_image(leaf), original).sum()
        gradient = torch.autograd.grad(value, leaf)[0]
        delta = (delta + step_size * gradient.sign()).clamp(-eps, eps)
    return (x + delta).clamp(0, 1)


def half_precision(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Weights as they are shipped: float16, integer buffers untouched."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors}
