"""Where prompts should land: class embeddings refined on photos, and the photo sets' own words.

No label is used to refine: the frozen 1000-way classifier is the teacher, on any photo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.training.photos import Photo, centre_crop
from vlmdefense_demo.training.trunk import Trunk

MEAN, STD, SIZE = 0.498, 0.502, 224


@torch.inference_mode()
def photo_features(trunk: Trunk, photos: Sequence[Photo], batch: int = 16) -> Tensor:
    """(N, 1280) pooled features of the classifier, in the order of the photos."""
    rows = []
    for start in tqdm(range(0, len(photos), batch), desc="features", mininterval=10):
        views = [centre_crop(p.open(), SIZE) for p in photos[start : start + batch]]
        x = ((torch.stack(views) - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        maps = trunk.network.forward_features(x)
        rows.append(trunk.network.forward_head(maps, pre_logits=True))
    return torch.cat(rows)


def seen_words(images: Tensor, labels: Sequence[str]) -> dict[str, Tensor]:
    """Label -> unit vector from the mean of all photos to the mean of its own.

    The difference, because an image embedding also holds what all photos share, and a word that
    held it too would beat the class embeddings, which are centred, on any photo.

    Args:
        images: (N, D) unit-norm embeddings of training photos.
        labels: their N labels.
    """
    centre = images.mean(0)
    groups: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        groups.setdefault(label, []).append(i)
    return {k: F.normalize(images[rows].mean(0) - centre, dim=0) for k, rows in groups.items()}


def separate(
    images: Tensor, labels: Tensor, words: Tensor, free: Tensor, steps: int = 150, pull: float = 5.0
) -> Tensor:
    """(C, D) the words of the photo sets, moved until they tell the sets' photos apart.

    Class names among them stay where they are, so that "wild cat" gives way to "leopard".

    Args:
        images: (N, D) unit-norm embeddings of training photos.
        labels: (N,) indices of words.
        words: (C, D) unit vectors to start from.
        free: (C,) bool, which may move.
        pull: how strongly a word is held to its start; the softmax has scale 25.
    """
    shift = torch.zeros_like(words).requires_grad_()
    optimiser = torch.optim.Adam([shift], 3e-3)
    for _ in range(steps):
        moved = F.normalize(words + shift * free[:, None], dim=1)
        distance = 1 - (moved * words).sum(1).mean()
        loss = F.cross_entropy(25 * images @ moved.T, labels) + pull * distance
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return F.normalize(words + shift * free[:, None], dim=1).detach()


@dataclass(frozen=True)
class Refinement:
    """Hyperparameters of `refine`, and the most photos that are looked at."""

    photos: int = 6000
    steps: int = 600
    batch: int = 256
    learning_rate: float = 3e-4
    scale: float = 25.0
    seed: int = 0


def refine(
    trunk: Trunk, features: Tensor, projection: Tensor, classes: Tensor, rank: int, how: Refinement
) -> Tensor:
    """(1000, D) unit-norm class embeddings that imitate the classifier better than in closed form.

    Cosines drop the classifier's bias and the lengths of its rows, and a text tower narrower than
    the embedding reaches only a subspace; both are made up for here by lowering the KL divergence
    from the classifier's distribution to the zero-shot one. Half of every batch are photos pushed
    towards three random classes, so that classes without a photo are covered.

    Args:
        features: (N, 1280) of training photos.
        rank: dimensions the text tower can reach (its width).
    """
    head = trunk.network.classifier
    weight, bias = head.weight, head.bias
    rows = F.normalize(weight - weight.mean(0), dim=1)
    left, values, right = torch.linalg.svd(classes, full_matrices=False)
    coordinates = (left[:, :rank] * values[:rank]).requires_grad_()
    basis = right[:rank].clone().requires_grad_(rank < classes.shape[1])
    optimiser = torch.optim.Adam([coordinates, basis], how.learning_rate)
    generator = torch.Generator().manual_seed(how.seed)
    for step in tqdm(range(how.steps), desc="class embeddings", mininterval=10):
        optimiser.param_groups[0]["lr"] = how.learning_rate * (1 - step / how.steps)
        x = features[torch.randint(len(features), (2 * how.batch,), generator=generator)]
        x = torch.cat([x[: how.batch], _pushed(x[how.batch :], rows, generator)])
        teacher = F.linear(x, weight, bias).log_softmax(1)
        image = F.normalize(x @ projection.T, dim=1)
        student = how.scale * image @ F.normalize(coordinates @ basis, dim=1).T
        loss = F.kl_div(student.log_softmax(1), teacher, log_target=True, reduction="batchmean")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return F.normalize(coordinates @ basis, dim=1).detach()


def _pushed(features: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Features moved towards three random classes by up to 60, 30 and 18 % of their length."""
    chosen = torch.randint(len(rows), (len(features), 3), generator=generator)
    amounts = torch.rand(len(features), 3, 1, generator=generator)
    amounts = amounts * torch.tensor([1.0, 0.5, 0.3]).view(1, 3, 1)
    direction = (rows[chosen] * amounts).sum(1)
    return 0.6 * (features + direction * features.norm(dim=1, keepdim=True))


def calibrate(trunk: Trunk, features: Tensor, projection: Tensor, text: Tensor) -> float:
    """The logit scale (as its logarithm) whose softmax is closest to the classifier's own.

    Args:
        features: (N, 1280) of training photos.
        text: (1000, D) unit-norm text embeddings of the class names.
    """
    teacher = trunk.network.classifier(features).log_softmax(1)
    cosines = F.normalize(features @ projection.T, dim=1) @ text.T

    def divergence(scale: float) -> float:
        student = (scale * cosines).log_softmax(1)
        return F.kl_div(student, teacher, log_target=True, reduction="batchmean").item()

    return math.log(min((float(s) for s in range(10, 61)), key=divergence))
