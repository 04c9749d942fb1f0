"""Small changes of a picture that leave its meaning alone: batched, differentiable, seeded."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.geometry import in_range
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Images

DEGREES, SHIFT, ZOOM = 5.0, 0.04, 0.08
JITTER, HUE = 0.08, 0.02
BLUR = (0.5, 1.2)
KERNEL = 5
NOISE = 0.02
GREY = (0.299, 0.587, 0.114)
DRAWS = 13


def weak_copies(views: Images, batch: int, run: Run) -> Images:
    """Each view turned, shifted and zoomed a little; half of them recoloured, blurred, noised.

    Source: the weak augmentation of SS-TPT (arXiv 2606.06943): 5 degrees, 4 % of the side, 8 % of
    the size; brightness, contrast and saturation by 8 %, hue by 2 %; a 5 x 5 blur of 0.5 to 1.2
    pixels; noise of at most 0.02. Hue is turned in YIQ.

    Args:
        views: (B * n, 3, H, W), the n views of an image next to each other.
        batch: B; draws of image i depend only on run's id i.
    """
    n = len(views) // batch
    draws = run.child("draws").uniform(torch.empty(batch, n, DRAWS)).flatten(0, 1)
    recoloured, blurred, noised = (draws[:, i] < 0.5 for i in (4, 9, 11))
    draws, signed = draws.to(views), (2 * draws - 1).to(views)
    x = _moved(views, signed[:, :4])
    x = _where(recoloured, x, lambda x, rows: _recoloured(x, signed[rows, 5:9]))
    x = _where(blurred, x, lambda x, rows: _blurred(x, _width(draws[rows, 10])))
    noise = _noise(x, noised.unflatten(0, (batch, n)), run.child("noise"))
    x = _where(noised, x, lambda x, rows: x + NOISE * _each(draws[rows, 12]) * noise)
    return in_range(x)


def _each(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _where(coin: Tensor, x: Images, change: Callable[[Images, Tensor], Images]) -> Images:
    """Change only the rows of the (N,) coin, which lies on the CPU, so that no GPU is waited for."""
    rows = coin.nonzero().squeeze(1).to(x.device)
    return x.index_copy(0, rows, change(x[rows], rows)) if len(rows) else x


def _noise(x: Images, coin: Tensor, run: Run) -> Images:
    """Standard normal, for the chosen views (B, n) alone: drawing it takes longer than adding it."""
    rows = [
        run.select([i]).normal(x.new_empty(1, chosen, *x.shape[1:]))[0]
        for i, chosen in enumerate(coin.sum(1).tolist())
    ]
    return torch.cat(rows)


def _moved(x: Images, signed: Tensor) -> Images:
    """(N, 4) in [-1, 1]: angle, shifts right and down, zoom."""
    angle = signed[:, 0] * math.radians(DEGREES)
    zoom = 1 / (1 + ZOOM * signed[:, 3])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [cos, -sin, 2 * SHIFT * signed[:, 1], sin, cos, 2 * SHIFT * signed[:, 2]]
    theta = torch.stack(rows, 1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _recoloured(x: Images, signed: Tensor) -> Images:
    """(N, 4) in [-1, 1]: brightness, contrast, saturation, hue."""
    brightness, contrast, saturation = (_each(1 + JITTER * signed[:, i]) for i in range(3))
    weights = x.new_tensor(GREY).view(1, 3, 1, 1)
    x = in_range(x * brightness)
    middle = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = in_range(middle + contrast * (x - middle))
    grey = (x * weights).sum(1, keepdim=True)
    x = grey + saturation * (x - grey)
    turn = _hue(2 * math.pi * HUE * signed[:, 3])
    return in_range(torch.einsum("nij,njhw->nihw", turn, x))


def _hue(angle: Tensor) -> Tensor:
    """(N,) radians -> (N, 3, 3) RGB matrices that turn the colour plane of YIQ."""
    to_yiq = angle.new_tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    )
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], 1)
    return torch.linalg.inv(to_yiq) @ turn.unflatten(1, (3, 3)) @ to_yiq


def _width(draw: Tensor) -> Tensor:
    return BLUR[0] + (BLUR[1] - BLUR[0]) * draw


def _blurred(x: Images, sigma: Tensor) -> Images:
    """A Gaussian of its own width for every picture, by one grouped convolution an axis."""
    reach = KERNEL // 2
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = (-(at**2) / (2 * sigma.unsqueeze(1) ** 2)).softmax(1).repeat_interleave(3, 0)
    rows = F.pad(x, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    groups = rows.shape[1]
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=groups)
    rows = F.conv2d(rows, kernel[:, None, :, None], groups=groups)
    return rows[0].unflatten(0, (len(x), 3))
