"""Pictures of a perturbation, each with its scale stated: never normalised to itself.

Matplotlib provides the colour map; the pictures are drawn by indexing, because a figure costs ten
times as much as the attack step it would show.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib import colormaps
from PIL import Image

GREY = 128


def signed_difference(clean: np.ndarray, attacked: np.ndarray, gain: float) -> Image.Image:
    """attacked - clean around mid-grey, amplified `gain` times, (H, W, 3) uint8 in and out."""
    delta = attacked.astype(np.float32) - clean.astype(np.float32)
    return Image.fromarray((GREY + gain * delta).round().clip(0, 255).astype(np.uint8))


def magnitude(clean: np.ndarray, attacked: np.ndarray, top: float) -> Image.Image:
    """The largest |difference| of the three channels, on a fixed scale of 0 to `top` levels."""
    delta = np.abs(attacked.astype(np.int16) - clean.astype(np.int16)).max(axis=2)
    index = (delta / max(top, 1) * 255).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(_table()[index])


def gain_for(levels: float) -> int:
    """The amplification that spreads +-`levels` over the whole grey range."""
    return max(1, int(127 // max(levels, 1)))


@cache
def _table() -> np.ndarray:
    """Perceptually uniform, dark = untouched; readable without colour vision."""
    return (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def overlay(picture: np.ndarray, where: np.ndarray) -> Image.Image:
    """A grey picture (H, W, 3) uint8 under a map (h, w) of values in [0, 1], stretched over it."""
    heat = Image.fromarray((255 * where).round().astype(np.uint8))
    size = (picture.shape[1], picture.shape[0])
    colours = _table()[np.asarray(heat.resize(size, Image.Resampling.BILINEAR))]
    grey = np.asarray(Image.fromarray(picture).convert("L"))[..., None]
    return Image.fromarray((0.45 * grey + 0.55 * colours).round().astype(np.uint8))


def spectrum(clean: np.ndarray, attacked: np.ndarray) -> Image.Image:
    """How much of the difference lies at each frequency: zero in the middle, logarithmic.

    Fixed scale: black is less than a thousandth of a level, white as much as a checkerboard of one.
    """
    delta = attacked.astype(np.float32).mean(axis=2) - clean.astype(np.float32).mean(axis=2)
    size = np.abs(np.fft.fftshift(np.fft.fft2(delta))) / delta.size
    index = (np.log10(size.clip(1e-3, 1.0)) / 3 + 1) * 255
    return Image.fromarray(_table()[index.round().astype(np.uint8)])
