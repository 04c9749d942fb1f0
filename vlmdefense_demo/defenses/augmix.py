"""AugMix: views recoloured and warped by short random chains, then mixed with themselves.

Batched, differentiable and seeded, for images of any size.

Source: Hendrycks et al., "AugMix", ICLR 2020 (arXiv 1912.02781), at severity 1, as the family of
TPT uses it: three chains of one to three operations out of nine, chain weights Dirichlet(1, 1, 1),
share of the view itself Beta(1, 1). Autocontrast and equalisation; four bits a channel; solarised
from a level between 231 and 254; turned by at most 2 degrees (a whole number); sheared by at most
0.03; shifted by at most a thirtieth of the side (whole pixels). What is outside the view is black.
Differs from the published code: shifts are relative to the image's own side, not to 224 pixels,
and a geometric operation does not round to 8 bits.

The operations on levels round their input to 8 bits and return Pillow's levels exactly. Gradients
through them: that of the stretch and of the reflection for autocontrast and solarisation, with the
rounding and the ends of the stretch held constant; straight through (slope 1) for equalisation and
posterisation. Those through geometry and mixing are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmdefense_demo.geometry import in_range
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Images

CHAINS, DEPTH = 3, 3
LEAST = 0.1  # severity is drawn from [LEAST, 1]
DEGREES, SHEAR, SHIFT, SOLARIZE = 3.0, 0.03, 1 / 30, 25.6
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TINY = 1e-12
Tone = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def augmix(views: Images, batch: int, run: Run) -> Images:
    """m view + (1 - m) `pure_mix`, m ~ Beta(1, 1) for every view; the first view stays as it is.

    Args:
        views: (B * n, 3, H, W), the n views of an image next to each other.
        batch: B; draws of image i depend only on run's id i.
    """
    own = run.child("own").uniform(torch.empty(batch, len(views) // batch)).flatten().to(views)
    # Between two equal pictures lerp returns them bit for bit, whatever the weight.
    return torch.lerp(pure_mix(views, batch, run), views, _each(own))


def pure_mix(views: Images, batch: int, run: Run) -> Images:
    """The weighted mean of three chains on every view, without a share of the view itself.

    Args:
        views: (B * n, 3, H, W), the n views of an image next to each other.
        batch: B; draws of image i depend only on run's id i.

    Returns:
        (B * n, 3, H, W) in [0, 1]; the first view of every image stays as it is.
    """
    first, rest = views.unflatten(0, (batch, -1)).tensor_split([1], dim=1)
    shape = (*rest.shape[:2], CHAINS, 2 + 3 * DEPTH)
    draws = run.child("chains").uniform(torch.empty(shape)).flatten(0, 1)
    x = rest.flatten(0, 1)
    weights = chain_weights(draws[..., 0]).to(x)
    mix = torch.zeros_like(x)
    for i in range(CHAINS):
        mix = mix + _each(weights[:, i]) * _chain(x, draws[:, i, 1:])
    mixed = in_range(mix).unflatten(0, rest.shape[:2])
    return torch.cat([first, mixed], dim=1).flatten(0, 1)


def chain_weights(draws: Tensor) -> Tensor:
    """(N, 3) uniform draws -> (N, 3) Dirichlet(1, 1, 1): exponentials over their sum."""
    exponentials = -torch.log1p(-draws) + TINY
    return exponentials / exponentials.sum(1, keepdim=True)


def _chain(x: Images, draws: Tensor) -> Images:
    """(N, 1 + 3 DEPTH) draws: length of the chain, then operation, severity and sign by step."""
    length = 1 + (draws[:, 0] * DEPTH).floor()
    # A list, because most pictures are left alone at most steps and need not be copied.
    pictures = list(x.unbind())
    for step in range(DEPTH):
        which, severity, coin = draws[:, 1 + 3 * step : 4 + 3 * step].unbind(1)
        severity = LEAST + (1 - LEAST) * severity
        operation = (which * len(OPERATIONS)).floor()
        operation = torch.where(step < length, operation.clamp_max(len(OPERATIONS) - 1), -1)
        for rows, names in _groups(operation.long().tolist()):
            signs = torch.where(coin[rows] > 0.5, -1.0, 1.0)
            chosen = torch.stack([pictures[row] for row in rows])
            changed = operate(chosen, names, severity[rows], signs)
            for row, picture in zip(rows, changed.unbind(), strict=True):
                pictures[row] = picture
    return torch.stack(pictures) if pictures else x


def _groups(operations: list[int]) -> list[tuple[list[int], list[str]]]:
    """Rows that one call can do, with the operation of each: the moves together, each tone alone."""
    groups: dict[str, tuple[list[int], list[str]]] = {}
    for row, i in enumerate(operations):
        if i >= 0:
            name = OPERATIONS[i]
            rows, names = groups.setdefault("move" if name in MOVES else name, ([], []))
            rows.append(row)
            names.append(name)
    return list(groups.values())


def operate(x: Images, names: Sequence[str], severity: Tensor, sign: Tensor) -> Images:
    """(N, 3, H, W) after one of `OPERATIONS` each: the same of `TONES`, or any of `MOVES`.

    Args:
        severity: (N,) in [0.1, 1].
        sign: (N,) 1 or -1, the direction of a move.
    """
    if names[0] in TONES:
        return _toned(x, TONES[names[0]], severity)
    each = zip(names, severity.tolist(), sign.tolist(), strict=True)
    size = (x.shape[-2], x.shape[-1])
    return _moved(x, torch.tensor([matrix(name, much, way, size) for name, much, way in each]))


def _toned(x: Images, tone: Tone, severity: Tensor) -> Images:
    levels = (255 * x.detach()).round_()
    out, slope = tone(levels, _each(severity).to(x))
    out = out / 255
    # The levels are Pillow's; what is added is zero and has the slope.
    return out + slope * (x - x.detach()) if x.requires_grad else out


def autocontrast(levels: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
    """Every channel stretched from its darkest and lightest level to 0 and 255."""
    # On the CPU, because Pillow's levels need double precision and not every device has it.
    low, high = (t.cpu().double().unsqueeze(2) for t in (levels.amin((2, 3)), levels.amax((2, 3))))
    # A number over a tensor would be its reciprocal times the number, which rounds twice.
    scale = torch.full_like(low, 255).div(high - low).where(high > low, 1)
    low = torch.where(high > low, low, 0)
    table = (torch.arange(256) * scale + -low * scale).trunc().clamp(0, 255)
    slope = scale.unsqueeze(3).to(levels.dtype).to(levels.device)
    return _looked_up(table.to(levels.dtype).to(levels.device), levels.long()), slope


def equalize(levels: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
    """Every channel's levels spread so that each occurs about as often."""
    index = levels.long()
    flat = index.flatten(2)
    every = torch.arange(256, device=levels.device).expand(*flat.shape[:2], -1)
    counts = torch.zeros_like(every).scatter_add(2, flat, torch.ones_like(flat))
    last = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - last) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp_min(1)
    table = torch.where(step > 0, table.clamp_max(255), every)
    return _looked_up(table.to(levels.dtype), index), levels.new_ones(())


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    return table.gather(2, index.flatten(2)).unflatten(2, index.shape[2:])


def posterize(levels: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
    """Four bits a channel, at every severity."""
    return (levels / 16).floor_() * 16, levels.new_ones(())


def solarize(levels: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
    """The lightest levels reflected."""
    dark = levels < 256 - (SOLARIZE * severity).floor()
    return torch.where(dark, levels, 255 - levels), torch.where(dark, 1.0, -1.0)


# (N, 3, H, W) whole levels and (N, 1, 1, 1) severity -> new levels and their slope.
TONES: dict[str, Tone] = {f.__name__: f for f in (autocontrast, equalize, posterize, solarize)}
OPERATIONS = (*TONES, *MOVES)


def matrix(name: str, severity: float, sign: float, size: tuple[int, int]) -> list[float]:
    """An operation of `MOVES` as Pillow's (a, b, c, d, e, f): where (x, y) is read from, in pixels.

    Args:
        severity: in [0.1, 1].
        sign: 1 or -1.
        size: height and width.
    """
    height, width = size
    if name == "rotate":
        angle = -math.radians(sign * int(DEGREES * severity))
        a, b = math.cos(angle), math.sin(angle)
        x, y = width / 2, height / 2
        return [a, b, x - a * x - b * y, -b, a, y + b * x - a * y]
    return {
        "shear_x": [1, sign * SHEAR * severity, 0, 0, 1, 0],
        "shear_y": [1, 0, 0, sign * SHEAR * severity, 1, 0],
        "translate_x": [1, 0, sign * int(SHIFT * severity * width), 0, 1, 0],
        "translate_y": [1, 0, 0, 0, 1, sign * int(SHIFT * severity * height)],
    }[name]


def _moved(x: Images, matrices: Tensor) -> Images:
    """Read bilinearly where the (N, 6) matrices point to; black outside."""
    height, width = x.shape[-2:]
    a, b, c, d, e, f = matrices.unbind(1)
    b, d = b * height / width, d * width / height
    c, f = a + b + 2 * c / width - 1, d + e + 2 * f / height - 1
    theta = torch.stack([a, b, c, d, e, f], 1).unflatten(1, (2, 3)).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    out = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    # Black begins at the picture's edge; padding with zeros would fade into it over a pixel.
    inside = (grid.abs() <= 1).all(3).unsqueeze(1)
    return torch.where(inside, out, 0)


def _each(value: Tensor) -> Tensor:
    return value[:, None, None, None]
