"""Random views of an image as one batched, differentiable, seeded tensor operation.

Crops of a model-sized image only ever enlarge, so bilinear sampling needs no antialiasing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.geometry import in_range
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Images

TRIES = 10
SCALE = (0.08, 1.0)


def random_views(x: Images, n: int, run: Run, scale: tuple[float, float] = SCALE) -> Images:
    """View 0 is the image itself; the others are random resized crops, half of them mirrored.

    Args:
        x: (B, 3, H, W).
        n: views per image, at least 1.

    Returns:
        (B * n, 3, H, W), the n views of an image next to each other.
    """
    return sampled(x, view_grid(x, n, run, scale))


def view_grid(x: Images, n: int, run: Run, scale: tuple[float, float] = SCALE) -> Tensor:
    """Where the views of `random_views` read the image: (B * n, H, W, 2) in [-1, 1].

    Source: torchvision's RandomResizedCrop (area `scale`, ratio 3/4 to 4/3, up to ten tries, then
    the whole image) and a coin for the flip; the boxes of row i depend only on run's id i.
    """
    batch, channels, height, width = x.shape
    draws = run.uniform(torch.empty(batch, n - 1, 4 * TRIES + 1))
    boxes = _boxes(draws[..., :-1].unflatten(-1, (TRIES, 4)), scale, height, width)
    mirrored = torch.where(draws[..., -1] < 0.5, -1.0, 1.0)
    whole = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(batch, 1, 4)
    boxes = torch.cat([whole, boxes], dim=1).flatten(0, 1)
    mirrored = torch.cat([torch.ones(batch, 1), mirrored], dim=1).flatten()
    wide, high, centre_x, centre_y = boxes.unbind(-1)
    zero = torch.zeros_like(wide)
    theta = torch.stack(
        [
            torch.stack([wide * mirrored, zero, centre_x], -1),
            torch.stack([zero, high, centre_y], -1),
        ],
        dim=1,
    ).to(x)
    return F.affine_grid(theta, [batch * n, channels, height, width], align_corners=False)


def sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Images, or maps of them, as the views show them: view 0 is untouched.

    Args:
        x: (B, C, H, W) in [0, 1].
        grid: (B * n, H, W, 2) of `view_grid`.

    Returns:
        (B * n, C, H, W).
    """
    n = len(grid) // len(x)
    copies = x.repeat_interleave(n, dim=0)
    views = F.grid_sample(copies, grid, padding_mode="border", align_corners=False)
    # Sampling the identity grid still rounds; the untouched view must be the image itself.
    first = (torch.arange(len(grid), device=x.device) % n == 0)[:, None, None, None]
    return torch.where(first, copies, in_range(views))


def _boxes(draws: Tensor, scale: tuple[float, float], height: int, width: int) -> Tensor:
    """(..., TRIES, 4) uniform draws -> (..., 4) width, height and centre in [-1, 1] units."""
    area = (scale[0] + draws[..., 0] * (scale[1] - scale[0])) * height * width
    low, high = math.log(3 / 4), math.log(4 / 3)
    ratio = (low + draws[..., 1] * (high - low)).exp()
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(-1, keepdim=True)
    w, h, x, y = (t.gather(-1, first).squeeze(-1) for t in (w, h, draws[..., 2], draws[..., 3]))
    w = torch.where(fits.any(-1), w, torch.full_like(w, width))
    h = torch.where(fits.any(-1), h, torch.full_like(h, height))
    left, top = (x * (width - w + 1)).floor(), (y * (height - h + 1)).floor()
    return torch.stack(
        [w / width, h / height, (2 * left + w) / width - 1, (2 * top + h) / height - 1], dim=-1
    )
