"""What the pocket model must show before it ships, measured on photos it never saw."""

from __future__ import annotations

import csv
import math
import statistics
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.labels import DEFAULT_TEMPLATE
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.training.photos import VALIDATION_ONLY, Photo, centre_crop, read_photos
from vlmdefense_demo.training.targets import photo_features
from vlmdefense_demo.training.trunk import Trunk
from vlmdefense_demo.training.words import photo_words

SKIMAGE, GRADIO = ("skimage", "data"), ("gradio", "media_assets/images")
# Photos that ship inside dependencies, each with the plain word it shows.
BUNDLED: tuple[tuple[tuple[str, str], str, str], ...] = (
    (SKIMAGE, "chelsea.png", "cat"),
    (SKIMAGE, "coffee.png", "coffee"),
    (SKIMAGE, "rocket.jpg", "rocket"),
    (SKIMAGE, "astronaut.png", "person"),
    (SKIMAGE, "motorcycle_left.png", "motorcycle"),
    (GRADIO, "lion.jpg", "lion"),
    (GRADIO, "cheetah1.jpg", "cheetah"),
    (GRADIO, "tower.jpg", "tower"),
)
PLAIN_LABELS = (*(word for _, _, word in BUNDLED), "dog", "car")
MODEL_FILES = ("open_clip_config.json", "open_clip_model.safetensors")
CALTECH = "caltech101"
CHUNK = 32


@dataclass(frozen=True)
class Row:
    """One measured number and what it has to reach.

    Args:
        name: what was measured.
        value: a rate in [0, 1], milliseconds or megabytes.
        threshold: the least a rate, or the most a time or a size may be.
        n: how many cases it rests on.
        interval: 95 % Wilson interval of a rate, None for times and sizes.
    """

    name: str
    value: float
    threshold: float
    n: int
    interval: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether the threshold is met."""
        return (
            self.value <= self.threshold if self.interval is None else self.value >= self.threshold
        )


def wilson(hits: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a rate, by default at 95 %."""
    rate, spread = hits / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def must_show(
    backbone: Backbone, trunk: Trunk, names: Sequence[str], photos: Path, model: Path
) -> list[Row]:
    """All numbers the pocket model is held to.

    Args:
        backbone: the loaded model.
        trunk: the 1000-way classifier it was made from.
        names: the 1000 class names.
        photos: the folder of photo sets.
        model: the model's folder, for its size.
    """
    objects = [p for p in read_photos(photos) if p.source.startswith(VALIDATION_ONLY)]
    images = embed_photos(backbone, objects)
    return [
        agreement(backbone, trunk, names, objects, images),
        zero_shot("200-way, validation photos", backbone, objects, images, 0.72),
        caltech(backbone, photos),
        plain_words(backbone),
        speed(backbone),
        size(model),
    ]


def agreement(
    backbone: Backbone, trunk: Trunk, names: Sequence[str], photos: Sequence[Photo], images: Tensor
) -> Row:
    """Zero-shot over the 1000 names against the classifier itself; two classes share a name."""
    teacher = trunk.network.classifier(photo_features(trunk, photos)).argmax(1)
    answers = (images @ embed_labels(backbone, names).T).argmax(1)
    pairs = zip(answers.tolist(), teacher.tolist(), strict=True)
    return _rate(
        "1000-way, same answer as the trunk", [names[a] == names[t] for a, t in pairs], 0.86
    )


def zero_shot(
    name: str, backbone: Backbone, photos: Sequence[Photo], images: Tensor, threshold: float
) -> Row:
    """Top-1 over the words of the photos' own labels."""
    words = [photo_words(p.label)[0] if p.source == CALTECH else p.label for p in photos]
    labels = sorted(set(words))
    answers = (images @ embed_labels(backbone, labels).T).argmax(1).tolist()
    return _rate(
        f"{name} ({len(labels)} words)",
        [labels[a] == w for a, w in zip(answers, words, strict=True)],
        threshold,
    )


def caltech(backbone: Backbone, photos: Path, most: int = 600) -> Row:
    """Top-1 on held-out Caltech-101 photos, the `most` first by a hash of their name."""
    held = [p for p in read_photos(photos, (CALTECH,)) if p.held_out and photo_words(p.label)]
    held = sorted(held, key=lambda p: zlib.crc32(p.file.encode()[::-1]))[:most]
    return zero_shot(
        "Caltech-101, held-out photos", backbone, held, embed_photos(backbone, held), 0.8
    )


def plain_words(backbone: Backbone) -> Row:
    """Everyday words on the photos that come with scikit-image and Gradio."""
    size = backbone.preprocess.size
    views = [centre_crop(Image.open(bundled(w, f)).convert("RGB"), size) for w, f, _ in BUNDLED]
    answers = classify(backbone, torch.stack(views), PLAIN_LABELS)
    hits = [a == word for a, (_, _, word) in zip(answers, BUNDLED, strict=True)]
    return _rate("plain words on bundled photos", hits, 1.0)


def bundled(where: tuple[str, str], file: str) -> Path:
    """A picture inside an installed package, found without importing the package.

    Raises:
        InvalidImage: the package or the file is not there.
    """
    spec = find_spec(where[0])
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root) / where[1] / file
        if path.exists():
            return path
    raise InvalidImage(f"{where[0]} has no picture {where[1]}/{file}.", "Update the package.")


def speed(backbone: Backbone, threads: int = 2, repeats: int = 20) -> Row:
    """Median milliseconds of one forward and backward pass of one image."""
    before = torch.get_num_threads()
    size = backbone.preprocess.size
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, size, size, generator=generator).to(backbone.device).requires_grad_()
    times = []
    torch.set_num_threads(threads)
    try:
        for _ in range(repeats + 3):
            start = time.perf_counter()
            torch.autograd.grad(backbone.encode_image(x).square().sum(), x)
            times.append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(before)
    return Row("forward + backward, ms", statistics.median(times[3:]), 60, repeats)


def size(model: Path) -> Row:
    """Megabytes of the model's own files, robust twins aside."""
    total = sum((model / file).stat().st_size for file in MODEL_FILES)
    return Row("files without robust twins, MB", total / 1e6, 45, len(MODEL_FILES))


@torch.inference_mode()
def embed_photos(backbone: Backbone, photos: Sequence[Photo]) -> Tensor:
    """(N, D) unit-norm image embeddings."""
    rows = []
    for start in range(0, len(photos), CHUNK):
        views = [
            centre_crop(p.open(), backbone.preprocess.size) for p in photos[start : start + CHUNK]
        ]
        rows.append(backbone.encode_image(torch.stack(views).to(backbone.device)))
    return F.normalize(torch.cat(rows), dim=1)


@torch.inference_mode()
def embed_labels(backbone: Backbone, labels: Sequence[str]) -> Tensor:
    """(C, D) unit-norm text embeddings of labels in the default template."""
    ids = backbone.tokenize([DEFAULT_TEMPLATE.replace("{}", label) for label in labels])
    return F.normalize(torch.cat([backbone.encode_ids(part) for part in ids.split(CHUNK)]), dim=1)


@torch.inference_mode()
def classify(backbone: Backbone, images: Tensor, labels: Sequence[str]) -> list[str]:
    """The top label of every image."""
    features = backbone.encode_image(images.to(backbone.device))
    return [labels[i] for i in (features @ embed_labels(backbone, labels).T).argmax(1).tolist()]


def listed_words(photos: Path) -> dict[str, str]:
    """Word -> WordNet id of the validation sets' label lists, if there are any; no photo is read."""
    words: dict[str, str] = {}
    for table in sorted(photos.glob(f"{VALIDATION_ONLY}*.csv")):
        with table.open(newline="") as handle:
            words |= {r["label"]: r["wordnet_id"] for r in csv.DictReader(handle)}
    return words


def _rate(name: str, hits: Sequence[bool], threshold: float) -> Row:
    count = sum(hits)
    return Row(name, count / len(hits), threshold, len(hits), wilson(count, len(hits)))
