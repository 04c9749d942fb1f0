"""One perturbation that turns the embedding of any photo away from itself, without labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from vlmdefense_demo.geometry import LEVELS
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import MIDDLE
from vlmdefense_demo.training.checkpoint import Checkpoint, about
from vlmdefense_demo.training.photos import Photo, batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UniversalRecipe:
    """Signed steps on 1 - cos(f(x + d), f(x)), from random whole levels; pixel units."""

    eps: float = 10 / 255
    steps: int = 320
    batch: int = 16
    first_step: float = 2 / 255
    last_step: float = 0.25 / 255
    seed: int = 0
    save_every: int = 40


class Perturbation(nn.Module):
    """The (1, 3, H, W) perturbation as a module, so that checkpoints are like everybody's."""

    def __init__(self, size: int, eps: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.empty(1, 3, size, size).uniform_(-eps, eps, generator=generator)
        self.delta = nn.Parameter(noise)


def train_universal(
    backbone: Backbone, photos: Sequence[Photo], recipe: UniversalRecipe, checkpoint: Path
) -> Tensor:
    """Train, or continue from the checkpoint.

    Args:
        photos: already without held-out ones; labels are not read.

    Returns:
        (1, 3, H, W) on whole levels in {-e .. e} / 255.
    """
    size = backbone.preprocess.size
    one = Perturbation(size, recipe.eps, recipe.seed).to(backbone.device)
    optimiser = torch.optim.SGD(one.parameters(), lr=1.0)
    file = Checkpoint(checkpoint, about(recipe, photos, backbone.model))
    first, _ = file.resume(one, optimiser)
    data = batches(photos, size, recipe.batch, range(first, recipe.steps), recipe.seed)
    for step, x in enumerate(tqdm(data, total=recipe.steps, initial=first, mininterval=10), first):
        x = x.to(backbone.device)
        with torch.no_grad():
            clean = backbone.encode_image(x)
        delta = one.delta.detach().requires_grad_()
        moved = backbone.encode_image((x + delta).clamp(0, 1))
        value = (1 - F.cosine_similarity(moved, clean)).mean()
        gradient = torch.autograd.grad(value, delta)[0]
        rate = recipe.first_step * (recipe.last_step / recipe.first_step) ** (step / recipe.steps)
        ahead = delta.detach() + rate * gradient.sign()
        one.delta.data.copy_(ahead.clamp(-recipe.eps, recipe.eps))
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            logger.info("step %d of %d, 1 - cos %.4f", step + 1, recipe.steps, value.item())
            file.save(one, optimiser, step + 1)
    return (one.delta.detach() * LEVELS).round().cpu() / LEVELS


def write_universal(delta: Tensor, path: Path) -> None:
    """A PNG whose middle grey means no change."""
    levels = (delta[0] * LEVELS).round().add(MIDDLE).to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(path, optimize=True)
