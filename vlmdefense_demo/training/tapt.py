"""TAPT's layer statistics of ordinary photos. The inference side is defenses/test_time/tapt.py."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.statistics import Stream
from vlmdefense_demo.models.variants import find, load_twin, missing
from vlmdefense_demo.training.ascent import climb
from vlmdefense_demo.training.photos import Photo, random_crop
from vlmdefense_demo.types import Images

BATCH = 16
EPS, STEPS = 1 / 255, 2
ROBUST = ("fare", "tecoa")


def robust_method(model: str) -> str:
    """The method whose tower stands for the robust statistics, "" if the model has none."""
    return next((method for method in ROBUST if not missing(model, method)), "")


def robust_eps(model: str) -> float:
    """The radius of that tower, or of the attack in its place, in levels of 255."""
    method = robust_method(model)
    return find(model, method).eps if method else EPS * 255


def chosen(photos: Sequence[Photo], n: int) -> list[Photo]:
    """The first n by a hash of their name, none of them held out."""
    mixed = sorted(photos, key=lambda p: zlib.crc32(f"{p.source}/{p.file}".encode()))
    return [photo for photo in mixed if not photo.held_out][:n]


def layer_statistics(
    backbone: Backbone, photos: Sequence[Photo], seed: int = 0
) -> dict[str, Tensor]:
    """Of the model itself ("clean") and of its robust twin ("robust"), on one crop of every photo.

    A model without a robust twin is watched on attacked crops instead: two label-free steps that
    turn the feature away, at 1/255.

    Args:
        photos: two or more, already without held-out ones; labels are not read.
    """
    method = robust_method(backbone.name)
    twin = load_twin(backbone, method) if method else backbone
    clean, robust = Stream(), Stream()
    crops, noise = (torch.Generator().manual_seed(seed + i) for i in range(2))
    size = backbone.preprocess.size
    for start in tqdm(range(0, len(photos), BATCH), desc="tapt", mininterval=10):
        few = photos[start : start + BATCH]
        x = torch.stack([random_crop(p.open(), size, crops) for p in few])
        x = x.to(backbone.device)
        clean.add(_watched(backbone, x))
        robust.add(_watched(twin, x if method else _attacked(backbone, x, noise)))
    return clean.moments().tensors("clean") | robust.moments().tensors("robust")


def _watched(backbone: Backbone, x: Images) -> list[Tensor]:
    blank = backbone.blank_prompt()
    with torch.no_grad():
        return backbone.encode_watched(x, blank.expand(len(x), *blank.shape))[1]


def _attacked(backbone: Backbone, x: Images, generator: torch.Generator) -> Images:
    """Pushed away from their own features; from random points, because there the slope is zero."""
    with torch.no_grad():
        anchor = backbone.encode_image(x)

    def drift(moved: Images) -> Tensor:
        return (backbone.encode_image(moved) - anchor).square().sum(1)

    delta = torch.empty(x.shape).uniform_(-EPS, EPS, generator=generator).to(x)
    return climb(drift, x, delta, EPS, EPS, STEPS)
