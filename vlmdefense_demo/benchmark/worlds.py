"""Where else the same defences are asked: other words for the same pictures, and worse pictures.

    own                                        the source's own words, which the table is about
    names                                      ImageNet's thousand names
    noise, blur, contrast, pixelate, jpeg      the same pictures, corrupted

A second source of pictures is a world as well, named as its file or folder is. Which world a picture
belongs to stands in front of its key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.benchmark.sources import Picture
from vlmdefense_demo.benchmark.tasks import OWN, Task, tasks
from vlmdefense_demo.errors import InvalidLabels, InvalidParameter
from vlmdefense_demo.filters import blur, jpeg
from vlmdefense_demo.geometry import from_levels, to_levels
from vlmdefense_demo.images import read_upload, to_pixels
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.names import imagenet_names
from vlmdefense_demo.run import Run
from vlmdefense_demo.training.report import embed_labels
from vlmdefense_demo.types import Images

NAMES = "names"
CHUNK = 16

Corruption = Callable[[Images, Run], Images]


def noise(x: Images, run: Run) -> Images:
    """Gaussian noise of width 0.18."""
    return x + 0.18 * run.normal(x)


def contrast(x: Images, run: Run) -> Images:
    """A fifth of the distance from every channel's mean."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + 0.2 * (x - mean)


def pixelate(x: Images, run: Run) -> Images:
    """Averaged to 0.4 of the side, and back."""
    height, width = x.shape[2:]
    coarse = F.adaptive_avg_pool2d(x, (int(0.4 * height), int(0.4 * width)))
    return F.interpolate(coarse, (height, width), mode="nearest")


# Severity 3 of 5 of ImageNet-C, Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261), at model size.
CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "blur": lambda x, run: blur(x, 3.0),
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg": lambda x, run: jpeg(x, 15),
}
WORLDS = (NAMES, *CORRUPTIONS)


def parse(text: str) -> tuple[str, ...]:
    """ "names,noise" -> their names.

    Raises:
        InvalidParameter: one of them is not known, or named twice.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [world for world in found if world not in WORLDS]
    if unknown:
        raise InvalidParameter(f"Unknown world {unknown[0]!r}.", f"Known: {', '.join(WORLDS)}.")
    if len(set(found)) < len(found):
        raise InvalidParameter(f"--worlds names the same thing twice: {text}.")
    return found


def elsewhere(
    world: str, home: Sequence[Task], backbone: Backbone, n_labels: int
) -> Sequence[Task]:
    """The pictures of a source as they are asked about in another world.

    Args:
        world: one of `WORLDS`; "names" asks the model once a picture.
        home: the source's own tasks.
        n_labels: names to choose from.

    Raises:
        InvalidLabels: "names", and the model takes all pictures for one thing.
    """
    if world != NAMES:
        return [moved(world, task) for task in home]
    pictures = [picture for task in home for picture in moved(NAMES, task).pictures]
    named = _named(pictures, backbone)
    if len({p.label for p in named}) < 2:
        raise InvalidLabels(
            f"The model names all pictures the same ({named[0].label}), so no answer can be wrong.",
            "Leave names out of --worlds.",
        )
    return tasks(named, n_labels=n_labels, world=NAMES)


def moved(world: str, task: Task) -> Task:
    """A task under the keys it has in a world."""
    pictures = (replace(p, key=f"{world}/{p.key}") for p in task.pictures)
    return replace(task, pictures=tuple(pictures), world=world)


def origin(key: str, world: str) -> str:
    """The key a picture has at home."""
    return key if world == OWN else key.removeprefix(f"{world}/")


def corrupted(x: Images, world: str, keys: Sequence[str]) -> Images:
    """Pictures as they look in a world, on the 8-bit grid: the same whatever the defences draw."""
    if world not in CORRUPTIONS:
        return x
    run = Run(0, tuple(origin(key, world) for key in keys), f"/{world}")
    return from_levels(to_levels(CORRUPTIONS[world](x, run))).to(x.device)


def _named(pictures: Sequence[Picture], backbone: Backbone) -> list[Picture]:
    """Right is the undefended model's own answer among all names, so that no label is needed."""
    names, how = imagenet_names(), backbone.preprocess
    text = embed_labels(backbone, names)
    found = []
    for start in range(0, len(pictures), CHUNK):
        chunk = pictures[start : start + CHUNK]
        fitted = [how.fit(read_upload(p.data).image) for p in chunk]
        answers = _answers(backbone, torch.cat([to_pixels(image) for image in fitted]), text)
        found += [replace(p, label=names[i]) for p, i in zip(chunk, answers.tolist(), strict=True)]
    return found


@torch.inference_mode()
def _answers(backbone: Backbone, x: Images, text: Tensor) -> Tensor:
    return (backbone.encode_image(backbone.place(x)) @ text.T).argmax(1)
