"""Pictures of a perturbation, each with its scale stated: never normalised to itself.

Matplotlib provides the colour map; the pictures are drawn by indexing, because a figure costs ten
times as much as the attack step it would show.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

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


def top_for(linf: float, params: Mapping[str, Any]) -> float:
    """The end of an attack's scale in levels: what it may change or, without a radius, changed."""
    return max(linf, float(params.get("eps", 0)), 1)


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


def looks(
    clean: np.ndarray, attacked: np.ndarray, grids: Mapping[str, Any]
) -> tuple[Image.Image, Image.Image, float]:
    """Both pictures under where the model looks on them, and the top of their one scale, from 0.

    Args:
        grids: the value of a note of kind "maps".
    """
    before, after = (np.asarray(grids[which], np.float64) for which in ("clean", "attacked"))
    top = float(max(before.max(), after.max()))
    drawn = [overlay(p, g / (top or 1)) for p, g in ((clean, before), (attacked, after))]
    return drawn[0], drawn[1], top


FLOOR = 1e-3  # levels; what is smaller is black in a spectrum
HALF_NYQUIST = 0.25  # cycles a pixel


def spectrum(clean: np.ndarray, attacked: np.ndarray) -> Image.Image:
    """How much of the difference lies at each frequency: zero in the middle, logarithmic.

    Fixed scale: black is less than a thousandth of a level, white as much as a checkerboard of one.
    """
    index = (np.log10(_frequencies(clean, attacked).clip(FLOOR, 1.0)) / 3 + 1) * 255
    return Image.fromarray(_table()[index.round().astype(np.uint8)])


def fine_share(clean: np.ndarray, attacked: np.ndarray) -> tuple[float, float]:
    """Share of the difference's energy above half the Nyquist frequency, and that of white noise.

    Above it lie waves shorter than four pixels, in any direction. A difference of nothing has 0.
    """
    energy = _frequencies(clean, attacked) ** 2
    down, across = (np.fft.fftshift(np.fft.fftfreq(n)) for n in energy.shape)
    fine = np.hypot(down[:, None], across) > HALF_NYQUIST
    total = float(energy.sum())
    return float(energy[fine].sum()) / total if total else 0.0, float(fine.mean())


def _frequencies(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """(H, W) amplitudes of the difference's mean over channels, in levels; zero in the middle."""
    delta = attacked.astype(np.float32).mean(axis=2) - clean.astype(np.float32).mean(axis=2)
    return np.abs(np.fft.fftshift(np.fft.fft2(delta))) / delta.size
