"""White-box accuracy of an image tower on photos it never saw: the numbers a twin is held to.

Every photo gets its own ten labels, the right one and nine drawn at random. The attack is this project's PGD against exactly the tower that answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.attacks.pgd import PGD
from vlmdefense_demo.geometry import from_levels, to_levels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, centre_crop, read_photos
from vlmdefense_demo.training.report import Row, embed_labels, embed_photos, wilson
from vlmdefense_demo.types import Goal, Images, LogitFn

N_LABELS = 10
BATCH = 8
RESTARTS = 3


@dataclass(frozen=True)
class Trial:
    """Photos with ten candidate labels each; the right one is always at position 0.

    Args:
        images: (N, 3, H, W) on the 8-bit grid.
        text: (N, 10, D) unit-norm label features.
    """

    images: Images
    text: Tensor


def words_trial(backbone: Backbone, folder: Path, n: int, seed: int = 0) -> Trial:
    """`n` validation photos: the photo's own word and nine other words of its set."""
    photos, chosen, generator = _photos(folder, n, seed)
    words = sorted({p.label for p in photos})
    right = [words.index(p.label) for p in chosen]
    return _trial(backbone, chosen, right, embed_labels(backbone, words), generator)


def names_trial(
    backbone: Backbone, names: Sequence[str], folder: Path, n: int, seed: int = 0
) -> Trial:
    """`n` validation photos: the undefended model's own answer and nine other ImageNet names.

    The answer is a pseudo-label, so the undefended clean accuracy is 100 % by construction.
    """
    _, chosen, generator = _photos(folder, n, seed)
    text = embed_labels(backbone, names)
    right = (embed_photos(backbone, chosen) @ text.T).argmax(1).tolist()
    return _trial(backbone, chosen, right, text, generator)


def _photos(folder: Path, n: int, seed: int) -> tuple[list[Photo], list[Photo], torch.Generator]:
    """All validation photos and `n` of them drawn by seed, with the generator to go on with."""
    photos = [p for p in read_photos(folder) if p.source.startswith(VALIDATION_ONLY)]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(photos), generator=generator)[:n].tolist()
    return photos, [photos[i] for i in order], generator


def _trial(
    backbone: Backbone,
    photos: Sequence[Photo],
    right: Sequence[int],
    text: Tensor,
    generator: torch.Generator,
) -> Trial:
    rows = []
    for answer in right:
        order = torch.randperm(len(text), generator=generator).tolist()
        rows.append([answer, *[i for i in order if i != answer][: N_LABELS - 1]])
    views = torch.stack([centre_crop(p.open(), backbone.preprocess.size) for p in photos])
    return Trial(from_levels(to_levels(views)), text[torch.tensor(rows)])


def white_box(name: str, backbone: Backbone, given: Trial, eps: int) -> Row:
    """Share of photos still right after PGD-20 with three restarts; eps 0 is clean accuracy.

    Judged on the 8-bit image. Restarts run on the photos the first start did not break, so the
    count is that of attacking every photo four times.

    Args:
        eps: radius in grey levels.
    """
    alive = torch.ones(len(given.images), dtype=torch.bool)
    attacks = (None,) if eps == 0 else (PGD(eps / 255, 20), PGD(eps / 255, 20, restarts=RESTARTS))
    for attack in attacks:
        rows = alive.nonzero().squeeze(1)
        for part in tqdm(rows.split(BATCH), desc=f"{name} eps {eps}", mininterval=10):
            target = _classifier(backbone, given.text[part])
            x = given.images[part]
            goal = Goal(torch.zeros(len(x), dtype=torch.long))
            if attack is not None:
                run = Run(0, tuple(map(str, part.tolist())), "/white-box")
                x = attack.ball.quantise(attack(target, x, goal, run=run), x)
            with torch.no_grad():
                alive[part] = ~goal.reached(target(x))
    n, held = len(alive), int(alive.sum())
    return Row(f"{name}, eps {eps}/255", held / n, 0.0, n, wilson(held, n))


def _classifier(backbone: Backbone, text: Tensor) -> LogitFn:
    """Logits over each row's own ten labels."""

    def target(x: Images) -> Tensor:
        features = torch.nn.functional.normalize(backbone.encode_image(x), dim=1)
        return backbone.logit_scale * (features.unsqueeze(1) * text).sum(2)

    return target


def robust_rows(
    plain: Backbone, twin: Backbone, names: Sequence[str], folder: Path, n: int
) -> Iterator[Row]:
    """What issue and model card quote, under both kinds of labels."""
    trials = {
        "names": names_trial(plain, names, folder, n),
        "words": words_trial(plain, folder, n),
    }
    for kind, given in trials.items():
        for tower, eps in ((plain, 0), (plain, 2), (twin, 0), (twin, 1), (twin, 2)):
            yield white_box(f"{kind}: {tower.twin or 'undefended'}", tower, given, eps)
