"""Differentiable twins of filters that have no useful slope of their own.

Nobody is shown what a twin makes of a picture: forwards go through the filter, and only the gradient
of an attacker who knows it comes from here. Every function takes (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.types import Images

BLOCK = 8
TOO_UNLIKE = 5.0
# Levels a coefficient is rounded to at quality 50, for brightness and for colour: ITU T.81, Annex K.
BRIGHTNESS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * BLOCK,) * 4,
)
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(x: Images, quality: int) -> Images:
    """What a JPEG file with colour at half the resolution (4:2:0) makes of a picture, unclamped.

    Source: Shin & Song, "JPEG-resistant Adversarial Images", NeurIPS workshop 2017: the nearest level r
    is replaced by r + (t - r)^3, which has a slope almost everywhere.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", x.new_tensor(TO_YCC), 255 * padded)
    bright, colour = ycc[:, :1] - 128, F.avg_pool2d(ycc[:, 1:], 2)
    bright = _rounded(bright, x.new_tensor(BRIGHTNESS), quality) + 128
    colour = _rounded(colour, x.new_tensor(COLOUR), quality)
    colour = F.interpolate(colour, scale_factor=2.0, mode="bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", x.new_tensor(TO_RGB), torch.cat([bright, colour], 1))
    return rgb[..., :height, :width] / 255


def _rounded(channels: Tensor, at_50: Tensor, quality: int) -> Tensor:
    """(B, C, H, W) in levels -> the same with the waves of every block softly rounded."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    levels = ((at_50 * scale + 50) / 100).floor().clamp(1, 255)
    waves = _waves().to(channels)
    b, c, height, width = channels.shape
    blocks = channels.reshape(b, c, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    shares = soft(waves @ blocks @ waves.T / levels)
    return (waves.T @ (shares * levels) @ waves).transpose(3, 4).reshape(channels.shape)


def soft(t: Tensor) -> Tensor:
    """Rounded, and the cube of what rounding changes added."""
    nearest = t.detach().round()
    return nearest + (t - nearest) ** 3


def _waves() -> Tensor:
    """(8, 8) the orthonormal cosine transform: a row is a wave."""
    rows = torch.arange(BLOCK)[:, None]
    waves = (math.pi * (2 * torch.arange(BLOCK)[None] + 1) * rows / (2 * BLOCK)).cos()
    return waves * torch.where(rows == 0, math.sqrt(1 / BLOCK), math.sqrt(2 / BLOCK))


def non_local_means(x: Images, strength: float, patch: int, distance: int) -> Images:
    """What scikit-image's fast non-local means make of a picture, to a few hundredths of a level.

    Its window is a row and a column smaller than an odd `patch` and lies half a pixel down and right,
    while what differs in it is divided by the whole patch; pixels too unlike count nothing.
    """
    reach, (height, width) = patch // 2, x.shape[2:]
    edge = distance + reach + 1
    padded = F.pad(x, (edge,) * 4, mode="reflect")

    def moved(down: int, right: int, more: int = 0) -> Tensor:
        top, left = edge + down, edge + right
        return padded[..., top : top + height + more, left : left + width + more]

    first, window = 1 - reach, 2 * reach
    here = moved(first, first, window - 1)
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for down in range(-distance, distance + 1):
        for right in range(-distance, distance + 1):
            there = moved(first + down, first + right, window - 1)
            unlike = (here - there).square().mean(1, keepdim=True)
            unlike = F.avg_pool2d(unlike, window, 1) * (window / patch / strength) ** 2
            weight = torch.where(unlike > TOO_UNLIKE, 0, (-unlike).exp())
            total, weights = total + weight * moved(down, right), weights + weight
    return total / weights
