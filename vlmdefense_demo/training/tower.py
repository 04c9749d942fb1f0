"""One loop for every defence that trains something in front of or inside the image tower.

A method is an objective: what is kept under attack, and what the attack raises. Everything else is
shared: frozen text tower and scale, BatchNorm in evaluation mode, the attack by `autograd.grad`
against frozen parameters, a scheduled learning rate. Checkpoints make a killed run continue where
it stopped.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.folding import LiveFold
from vlmdefense_demo.training.ascent import climb
from vlmdefense_demo.training.checkpoint import Checkpoint, about
from vlmdefense_demo.training.objective import Batch, Objective
from vlmdefense_demo.training.photos import Photo, batches
from vlmdefense_demo.training.schedule import warm_cosine
from vlmdefense_demo.types import Features, Images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TowerRecipe:
    """Hyperparameters of one training; pixel units.

    Args:
        share: of the trained weights in what ships; the rest is the original's. A tower that learns
            from labels forgets what no label asked for, and a fifth of the original brings it back.
    """

    eps: float = 3 / 255
    attack_steps: int = 2
    steps: int = 3000
    batch: int = 16
    size: int = 160
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    warm_up: float = 0.05
    ramp: float = 0.4
    share: float = 1.0
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

    def optimiser(self, trained: nn.Module) -> torch.optim.Optimizer:
        """AdamW; its rate is set at every step."""
        return torch.optim.AdamW(trained.parameters(), weight_decay=self.weight_decay)


class Student(Backbone):
    """The model with a copy of its image tower that may be trained; the original is not touched."""

    def __init__(self, original: Backbone) -> None:
        tower = copy.deepcopy(original.visual)
        twin = original.with_visual(tower, "student")
        super().__init__(original.name, twin.model, original.tokenizer, original.preprocess)
        self.trained: nn.Module = tower
        self._live = LiveFold(tower, original.preprocess.size)

    def _through(self, function: Callable[[Any, Tensor], Any], x: Images) -> Any:
        return super()._through(lambda _, normalised: self._live(function, normalised), x)


class Curriculum(Protocol):
    """What the loop has to be told."""

    @property
    def recipe(self) -> TowerRecipe:
        """The hyperparameters."""
        ...

    @property
    def photos(self) -> Sequence[Photo]:
        """What its batches are made of."""
        ...

    @property
    def checkpoint(self) -> Path:
        """Written every `save_every` steps, and continued from if it exists."""
        ...

    def batches(self, steps: range) -> Iterator[Batch]:
        """One batch a step, on the model's device, the same whatever step the run starts with."""
        ...


@dataclass(frozen=True)
class Course:
    """What every tower method is trained with alike: crops, labelled by the original model.

    Args:
        teacher: the original model.
        photos: already without held-out ones; their labels are not read.
        text: (C, D) unit-norm embeddings of the names the teacher labels the photos with.
        checkpoint: written every `save_every` steps, and continued from if it exists.
    """

    teacher: Backbone
    photos: Sequence[Photo]
    text: Features
    recipe: TowerRecipe
    checkpoint: Path

    def batches(self, steps: range) -> Iterator[Batch]:
        """Random crops at the recipe's size."""
        recipe = self.recipe
        for x in batches(self.photos, recipe.size, recipe.batch, steps, recipe.seed):
            x = x.to(self.teacher.device).contiguous(memory_format=torch.channels_last)
            yield Batch(x, self.teacher, self.text)


def fine_tune(course: Course, objective: Objective, start: nn.Module | None = None) -> nn.Module:
    """Train a copy of the teacher's image tower, or of `start`; returns it in evaluation mode."""
    student = Student(course.teacher)
    if start is not None:
        student.trained.load_state_dict(start.state_dict())
    train(student, student.trained, course, objective)
    return student.trained


def train(student: Backbone, trained: nn.Module, course: Curriculum, objective: Objective) -> None:
    """The loop: attack the student, then one optimiser step on `trained`, which shapes its answer.

    Raises:
        InvalidParameter: the checkpoint belongs to another training.
    """
    recipe = course.recipe
    trained.requires_grad_(True)
    optimiser = recipe.optimiser(trained)
    made_of = about(recipe, course.photos, student.model, trained)
    checkpoint = Checkpoint(course.checkpoint, made_of)
    first, _ = checkpoint.resume(trained, optimiser)
    data = course.batches(range(first, recipe.steps))
    progress = tqdm(data, total=recipe.steps, initial=first, mininterval=10)
    for step, batch in enumerate(progress, first):
        trained.requires_grad_(False)
        attacked = _attack(student, batch, objective, recipe, step)
        trained.requires_grad_(True)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = objective.loss(student, attacked, batch).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            logger.info("step %d of %d, loss %.4f", step + 1, recipe.steps, loss.item())
            checkpoint.save(trained, optimiser, step + 1)
    trained.eval().requires_grad_(False)


def _attack(
    student: Backbone, batch: Batch, objective: Objective, recipe: TowerRecipe, step: int
) -> Images:
    """Random start, then signed steps that together reach every corner of the ball."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 500_009)
    x, eps = batch.images, recipe.radius(step)
    step_size = 2 * eps / recipe.attack_steps
    delta = torch.empty(x.shape).uniform_(-eps, eps, generator=generator).to(x)
    return climb(
        lambda leaf: objective.attack(student, leaf, batch),
        x,
        delta,
        eps,
        step_size,
        recipe.attack_steps,
    )


def half_precision(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Weights as they are shipped: float16, integer buffers untouched."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors}
