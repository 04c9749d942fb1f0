"""White-box accuracy of every tower on photos it never saw: the numbers the model card quotes.

The attacks are this project's own against exactly the tower that answers, judged on the 8-bit
picture: APGD with cross-entropy and with DLR, then PGD-20 from three starts, the clean picture and
two random ones. A photo one of them breaks counts as broken, and one that is broken in a ball is
broken in every larger one; so the order changes what it costs, not what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.attacks.apgd import APGDCE, APGDDLR
from vlmdefense_demo.attacks.base import Attacker
from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.geometry import from_levels, to_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, centre_crop, read_photos
from vlmdefense_demo.training.report import Row, embed_labels, embed_photos, wilson
from vlmdefense_demo.types import Goal, Images, Labels, LogitFn

N_LABELS = 10
BATCH = 8
STEPS, STARTS = 20, 3
RADII = (1, 2, 4)


@dataclass(frozen=True)
class Trial:
    """Photos with candidate labels.

    Args:
        images: (N, 3, H, W) on the 8-bit grid.
        text: (N, K, D) unit-norm label features of every photo, or (1, K, D) shared by all.
        right: (N,) position of the right label.
    """

    images: Images
    text: Tensor
    right: Labels


def words_trial(backbone: Backbone, folder: Path, n: int, labels: int = N_LABELS) -> Trial:
    """`n` validation photos: the photo's own word among the words of its set.

    Args:
        labels: how many, drawn anew for every photo; 0 takes all words for all photos.
    """
    photos, chosen, generator = _photos(folder, n)
    words = sorted({p.label for p in photos})
    right = [words.index(p.label) for p in chosen]
    text = embed_labels(backbone, words).clone()  # no inference tensor
    if labels:
        return _few(backbone, chosen, right, text, generator)
    return Trial(_views(backbone, chosen), text[None], torch.tensor(right))


def names_trial(backbone: Backbone, names: Sequence[str], folder: Path, n: int) -> Trial:
    """`n` validation photos: the undefended model's own answer and nine other ImageNet names.

    The answer is a pseudo-label, so the undefended clean accuracy is 100 % by construction.
    """
    _, chosen, generator = _photos(folder, n)
    text = embed_labels(backbone, names)
    right = (embed_photos(backbone, chosen) @ text.T).argmax(1).tolist()
    return _few(backbone, chosen, right, text, generator)


def accuracies(name: str, backbone: Backbone, given: Trial) -> Iterator[Row]:
    """Clean accuracy, and what is left of it in growing balls."""
    alive = torch.ones(len(given.right), dtype=torch.bool)
    yield _row(name, 0, _keep(backbone, given, alive, None, f"{name} clean"))
    for eps in RADII:
        for attack in attacks(eps / 255):
            _keep(backbone, given, alive, attack, f"{name} {eps} {type(attack).__name__}")
        yield _row(name, eps, alive)


def _keep(
    backbone: Backbone, given: Trial, alive: Tensor, attack: Attacker | None, what: str
) -> Tensor:
    """Strike the photos an attack breaks (or, without one, those that are wrong) off `alive`."""
    rows = alive.nonzero().squeeze(1)
    parts = rows.split(BATCH) if len(rows) else ()
    for part in tqdm(parts, desc=what, mininterval=10):
        target = _classifier(backbone, given, part)
        x, goal = given.images[part], Goal(given.right[part])
        if attack is not None:
            run = Run(0, tuple(map(str, part.tolist())), "/white-box")
            x = attack.ball.quantise(attack(target, x, goal, run=run), x)
        with torch.no_grad():
            alive[part] = ~goal.reached(target(x))
    return alive


def _classifier(backbone: Backbone, given: Trial, rows: Tensor) -> LogitFn:
    """Logits over each photo's own labels."""
    text = given.text[rows] if len(given.text) > 1 else given.text

    def target(x: Images) -> Tensor:
        features = torch.nn.functional.normalize(backbone.encode_image(x), dim=1)
        return backbone.logit_scale * (features.unsqueeze(1) * text).sum(2)

    return target


def _row(name: str, eps: int, alive: Tensor) -> Row:
    n, held = len(alive), int(alive.sum())
    return Row(f"{name}, eps {eps}/255", held / n, 0.0, n, wilson(held, n))


def attacks(eps: float) -> tuple[Attacker, ...]:
    """What every photo that still stands has to go through."""
    return (
        APGDCE(eps=eps, steps=STEPS, stop_early=True),
        APGDDLR(eps=eps, steps=STEPS, stop_early=True),
        PGD(eps, STEPS, restarts=STARTS - 1, stop_early=True),
    )


def _photos(folder: Path, n: int) -> tuple[list[Photo], list[Photo], torch.Generator]:
    """All validation photos and `n` of them, with the generator to go on with."""
    photos = [p for p in read_photos(folder) if p.source.startswith(VALIDATION_ONLY)]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(photos), generator=generator)[:n].tolist()
    return photos, [photos[i] for i in order], generator


def _few(
    backbone: Backbone,
    photos: Sequence[Photo],
    right: Sequence[int],
    text: Tensor,
    generator: torch.Generator,
) -> Trial:
    """Every photo's right label, first, and others drawn at random."""
    rows = []
    for answer in right:
        order = torch.randperm(len(text), generator=generator).tolist()
        rows.append([answer, *[i for i in order if i != answer][: N_LABELS - 1]])
    labels = torch.zeros(len(photos), dtype=torch.long)
    return Trial(_views(backbone, photos), text[torch.tensor(rows)], labels)


def _views(backbone: Backbone, photos: Sequence[Photo]) -> Images:
    views = torch.stack([centre_crop(p.open(), backbone.preprocess.size) for p in photos])
    return from_levels(to_levels(views))
