"""Training of FAP's deep prompts. The inference side is defenses/training_time/fap.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmdefense_demo.losses import divergence
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.deep_prompts import (
    DEPTH,
    encode_text,
    initial_prompts,
    label_prompts,
    vision_transformer,
)
from vlmdefense_demo.training.objective import Batch
from vlmdefense_demo.training.photos import Photo, centre_crop
from vlmdefense_demo.training.schedule import epoch_cosine
from vlmdefense_demo.training.tower import TowerRecipe
from vlmdefense_demo.types import Features, Images, Labels

EPOCHS = 10


@dataclass(frozen=True)
class FAPRecipe(TowerRecipe):
    """FAP's hyperparameters; pixel units.

    Args:
        per_epoch: optimiser steps of one epoch.
    """

    eps: float = 1 / 255
    batch: int = 4
    size: int = 224
    learning_rate: float = 0.0035
    momentum: float = 0.9
    weight_decay: float = 5e-4
    ramp: float = 0.0
    per_epoch: int = 1

    def over(self, n: int, epochs: int = EPOCHS) -> FAPRecipe:
        """The recipe for n photos: whole batches only, but at least one an epoch."""
        per_epoch = max(1, n // self.batch)
        return replace(self, per_epoch=per_epoch, steps=epochs * per_epoch)

    def rate(self, step: int) -> float:
        """One epoch of warm-up, then cosine from epoch to epoch."""
        epochs = -(-self.steps // self.per_epoch)
        return epoch_cosine(step // self.per_epoch, epochs, self.learning_rate)

    def optimiser(self, trained: nn.Module) -> torch.optim.Optimizer:
        """SGD; its rate is set at every step."""
        return torch.optim.SGD(
            trained.parameters(), momentum=self.momentum, weight_decay=self.weight_decay
        )


class Prompted(Backbone):
    """The model, frozen, with deep prompts that may be trained in both towers.

    Args:
        original: the model; nothing is written to it.
        names: the classes.

    Raises:
        MethodFailed: one of the towers is not open_clip's own transformer.
    """

    def __init__(
        self, original: Backbone, names: Sequence[str], depth: int = DEPTH, seed: int = 0
    ) -> None:
        vision_transformer(original.visual)
        super().__init__(
            original.name, original.model, original.tokenizer, original.preprocess, "prompted"
        )
        self._tower = original._tower
        self.names = tuple(names)
        self._labels = label_prompts(original, names)
        self.prompts = initial_prompts(original, self._labels, depth, seed)

    def encode_image(self, x: Images) -> Features:
        """(B, 3, H, W) in [0, 1] -> (B, D) un-normalised features beside the prompts."""
        return self.encode_prompted(x, self.prompts().image)

    def classes(self) -> Features:
        """(C, D) unit-norm embeddings of the class names behind the prompts."""
        return F.normalize(encode_text(self._labels, self.prompts().text), dim=1)


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Clean photos whose labels are known; the teacher is the model in training itself.

    `text` keeps its graph to the prompts, so that the loss reaches them although the text is encoded
    once a step; no attack step changes it.
    """

    known: Labels

    @cached_property
    def labels(self) -> Labels:
        """(B,) the photos' own."""
        return self.known


@dataclass(frozen=True)
class FewShots:
    """A few photos of every class, as the model sees them: no crops, no flips.

    Args:
        student: the model in training.
        photos: their labels are among the student's names.
    """

    student: Prompted
    photos: Sequence[Photo]
    recipe: FAPRecipe
    checkpoint: Path

    def batches(self, steps: range) -> Iterator[LabelledBatch]:
        """Every epoch has another order; what does not fill a batch is left out of it."""
        student, size = self.student, self.recipe.size
        for step in steps:
            some = [self.photos[i] for i in self._rows(step)]
            x = torch.stack([centre_crop(photo.open(), size) for photo in some])
            labels = torch.tensor([student.names.index(photo.label) for photo in some])
            x, labels = x.to(student.device), labels.to(student.device)
            yield LabelledBatch(x, student, student.classes(), labels)

    def _rows(self, step: int) -> list[int]:
        recipe = self.recipe
        epoch, place = divmod(step, recipe.per_epoch)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.photos), generator=generator).tolist()
        return order[place * recipe.batch : (place + 1) * recipe.batch]


@dataclass(frozen=True)
class FAPObjective:
    """Answers must agree under attack, and image features are free to differ for it.

    Source: Zhou et al., NeurIPS 2024 (arXiv 2403.14774). The loss is
    CE(clean) + weight * KL(clean || attacked) * (cos(z_clean, z_attacked) + 1), a sample, at the
    model's own scale, with gradients through everything. The attack raises the same KL.

    Differs from the authors' code: full precision without their half-precision casts (gradients of
    pixels underflow there), the clean answer of the attack computed once instead of at every step,
    and no weight gradients left over from it.
    """

    weight: float = 1.5

    def attack(self, student: Backbone, x: Images, batch: Batch) -> Tensor:
        """(B,) KL(clean || attacked) of the answers, the clean ones constant."""
        return divergence(batch.logits(batch.original), batch.logits(student.encode_image(x)))

    def loss(self, student: Backbone, attacked: Images, batch: Batch) -> Tensor:
        """(B,) cross-entropy of the clean photo + weighted divergence."""
        both = student.encode_image(torch.cat([batch.images, attacked]))
        clean, adversarial = batch.logits(both).chunk(2)
        value = F.cross_entropy(clean, batch.labels, reduction="none")
        apart = closeness(*both.chunk(2)) * divergence(clean, adversarial)
        return value + self.weight * apart


def closeness(z: Features, other: Features) -> Tensor:
    """(B,) cosine + 1, in [0, 2]: what weighs the divergence of a pair."""
    return F.cosine_similarity(z, other, dim=1) + 1
