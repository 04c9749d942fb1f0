"""White-box accuracy of an image tower on photos it never saw: the numbers a twin is held to.

Every photo gets its own ten labels, the right one and nine drawn at random from the words of its
set. The attack is this project's PGD against exactly the tower that answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.geometry import from_levels, quantise_toward, to_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, centre_crop, read_photos
from vlmdefense_demo.training.report import Row, embed_labels, wilson
from vlmdefense_demo.types import Goal, Images, LogitFn

N_LABELS = 10
BATCH = 8


@dataclass(frozen=True)
class Trial:
    """Photos with ten candidate labels each; the right one is always at position 0.

    Args:
        images: (N, 3, H, W) on the 8-bit grid.
        text: (N, 10, D) unit-norm label features.
    """

    images: Images
    text: Tensor


def trial(backbone: Backbone, folder: Path, n: int, seed: int = 0) -> Trial:
    """`n` validation photos, drawn by seed, with their labels."""
    photos = [p for p in read_photos(folder) if p.source.startswith(VALIDATION_ONLY)]
    words = sorted({p.label for p in photos})
    generator = torch.Generator().manual_seed(seed)
    chosen = [photos[i] for i in torch.randperm(len(photos), generator=generator)[:n].tolist()]
    rows = [_labels(words, photo, generator) for photo in chosen]
    text = embed_labels(backbone, words)
    views = torch.stack([centre_crop(p.open(), backbone.preprocess.size) for p in chosen])
    return Trial(from_levels(to_levels(views)), text[torch.tensor(rows)])


def _labels(words: Sequence[str], photo: Photo, generator: torch.Generator) -> list[int]:
    right = words.index(photo.label)
    others = [i for i in torch.randperm(len(words), generator=generator).tolist() if i != right]
    return [right, *others[: N_LABELS - 1]]


def white_box(
    name: str, backbone: Backbone, given: Trial, eps: int, attack: tuple[int, int] = (20, 3)
) -> Row:
    """Share of photos still right after PGD with (steps, restarts); eps 0 is clean accuracy.

    Args:
        eps: radius in grey levels. Judged on the 8-bit image.
    """
    pgd = PGD(eps=eps / 255, steps=attack[0], restarts=attack[1])
    held = 0
    for start in tqdm(range(0, len(given.images), BATCH), desc=f"{name} eps {eps}", mininterval=10):
        x, text = (t[start : start + BATCH] for t in (given.images, given.text))
        target = _classifier(backbone, text)
        goal = Goal(torch.zeros(len(x), dtype=torch.long))
        if eps:
            run = Run(0, tuple(str(start + i) for i in range(len(x))), "/white-box")
            x = quantise_toward(x, pgd(target, x, goal, run=run))
        with torch.no_grad():
            held += int((~goal.reached(target(x))).sum())
    n = len(given.images)
    return Row(f"{name}, eps {eps}/255", held / n, 0.0, n, wilson(held, n))


def _classifier(backbone: Backbone, text: Tensor) -> LogitFn:
    """Logits over each row's own ten labels."""

    def target(x: Images) -> Tensor:
        features = torch.nn.functional.normalize(backbone.encode_image(x), dim=1)
        return backbone.logit_scale * (features.unsqueeze(1) * text).sum(2)

    return target


def robust_rows(plain: Backbone, twin: Backbone, folder: Path, n: int) -> Iterator[Row]:
    """What issue and model card quote: clean, eps 1 and 2 of the twin, eps 2 of the original."""
    given = trial(plain, folder, n)
    yield white_box("undefended", plain, given, 0)
    yield white_box("undefended", plain, given, 2)
    for eps in (0, 1, 2):
        yield white_box(twin.twin, twin, given, eps)
