"""Filters of whole pictures: what controls, attacks and purifying defences share.

Every function takes (B, 3, H, W) in [0, 1] and treats every picture by itself. Those of torch are
differentiable; JPEG and non-local means have the slope of a twin, total variation has none.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vlmdefense_demo import twins
from vlmdefense_demo.geometry import from_levels, in_range, through_twin, to_levels
from vlmdefense_demo.run import Run
from vlmdefense_demo.types import Images

AT_SIZE = 224
Picture = np.ndarray  # (H, W, 3) float32 in [0, 1]
Exchange = Callable[[Tensor, Tensor], Tensor]


def jpeg(x: Images, quality: int) -> Images:
    """Every picture through Pillow's encoder (4:2:0) and back; a gradient goes through its twin."""
    rows = [_through_a_file(row.permute(1, 2, 0), quality) for row in to_levels(x).cpu()]
    return through_twin(x, torch.stack(rows).to(x), partial(twins.jpeg, quality=quality))


def _through_a_file(levels: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return from_levels(data.view(*levels.shape).permute(2, 0, 1))


def blur(x: Images, sigma: float) -> Images:
    """Gaussian of width sigma pixels, with a kernel of three sigma on each side; differentiable."""
    size = min(2 * round(3 * sigma) + 1, 2 * (min(x.shape[2:]) // 2) - 1)
    return in_range(gaussian_blur(x, [size, size], [sigma, sigma]))


def bit_depth(x: Images, bits: int) -> Images:
    """Rounded to 2^bits levels a channel; not differentiable: its slope is zero almost everywhere."""
    top = 2**bits - 1
    return (x.detach() * top).round() / top


def median(x: Images, size: int) -> Images:
    """The median of size x size neighbours, channel by channel; edges mirrored; differentiable.

    Of an even number the lower of the two in the middle. Equal neighbours share the slope.
    """
    reach, (height, width) = size // 2, x.shape[2:]
    padded = F.pad(x, (reach, size - 1 - reach, reach, size - 1 - reach), mode="reflect")
    places = [(i, j) for i in range(size) for j in range(size)]
    return _lower_median([padded[:, :, i : i + height, j : j + width] for i, j in places])


def _lower_median(pending: list[Tensor]) -> Tensor:
    """Elementwise over tensors of one shape, by forgetful selection: several times faster than sorting.

    The largest of those kept lies above the median once there are more beside it than may lie below;
    so it is forgotten, likewise the smallest, and the next one is let in.
    """
    below, kept = (len(pending) - 1) // 2, pending[:0]
    above = len(pending) - 1 - below
    while below or above:
        if len(kept) - 1 > below:
            kept, above = _without_end(kept, torch.maximum, torch.minimum), above - 1
        elif len(kept) - 1 > above:
            kept, below = _without_end(kept, torch.minimum, torch.maximum), below - 1
        else:
            kept, pending = [*kept, pending[0]], pending[1:]
    return kept[0]


def _without_end(kept: list[Tensor], farther: Exchange, nearer: Exchange) -> list[Tensor]:
    """All but the largest, or all but the smallest, in new tensors."""
    end, rest = kept[0], []
    for other in kept[1:]:
        rest.append(nearer(end, other))
        end = farther(end, other)
    return rest


def total_variation(x: Images, weight: float) -> Images:
    """Chambolle's denoising: the nearest picture of little variation; not differentiable."""
    return _each(x, lambda p: denoise_tv_chambolle(p, weight=weight, channel_axis=2))


def non_local_means(x: Images, strength: float, patch: int, distance: int) -> Images:
    """Every pixel the mean of those with similar surroundings; a gradient goes through its twin.

    Args:
        strength: how unlike two surroundings may be, in pixel units.
        patch: side of the surroundings.
        distance: how far away similar ones are looked for.
    """

    def denoise(p: Picture) -> Picture:
        return denoise_nl_means(
            p, patch_size=patch, patch_distance=distance, h=strength, channel_axis=2, fast_mode=True
        )

    twin = partial(twins.non_local_means, strength=strength, patch=patch, distance=distance)
    return through_twin(x, _each(x, denoise), twin)


def _each(x: Images, denoise: Callable[[Picture], Picture]) -> Images:
    rows = []
    for row in x.detach().cpu():
        picture = denoise(row.permute(1, 2, 0).contiguous().numpy())
        rows.append(torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1))
    return torch.stack(rows).to(x).clamp(0, 1)


def shrunk_and_padded(x: Images, run: Run, smallest: float, probability: float = 1.0) -> Images:
    """With some probability shrink each picture to `smallest` .. 1 of its side and pad it with zeros.

    Differentiable; row i's draw depends only on run's id i.
    """
    height, width = x.shape[2:]
    draw = run.uniform(torch.empty(len(x), 4))
    rows = []
    for row, (coin, scale, down, right) in zip(x, draw.tolist(), strict=True):
        h = round(height * (smallest + (1 - smallest) * scale))
        w = round(width * (smallest + (1 - smallest) * scale))
        top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
        small = F.interpolate(row[None], (h, w), mode="bilinear", align_corners=False)
        padded = F.pad(small, (left, width - w - left, top, height - h - top))
        rows.append(padded if coin < probability else row[None])
    return torch.cat(rows)


def fourier_low_pass(x: Images, radius: float) -> Images:
    """Frequencies damped by exp(-f^2 / 2 radius^2), f in cycles over 224 pixels; differentiable.

    The picture counts as a tile: what lies over one edge comes back at the other.
    """
    height, width = x.shape[2:]
    down = torch.fft.fftfreq(height, device=x.device)[:, None] * AT_SIZE
    right = torch.fft.rfftfreq(width, device=x.device)[None] * AT_SIZE
    mask = (-(down**2 + right**2) / (2 * radius**2)).exp()
    return in_range(torch.fft.irfft2(torch.fft.rfft2(x) * mask, s=(height, width)))


def framed(x: Tensor, frames: Tensor, border: int) -> Tensor:
    """(..., 3, H, W) shrunk into the border of frames that broadcast; differentiable in both.

    Args:
        border: width of the frame, in pixels of 224.
    """
    height, width = x.shape[-2:]
    p = max(1, round(border * min(height, width) / AT_SIZE))
    inside = (height - 2 * p, width - 2 * p)
    small = F.interpolate(
        x.flatten(0, -4), inside, mode="bilinear", align_corners=False, antialias=True
    )
    edge = F.pad(x.new_zeros(inside), (p,) * 4, value=1.0)
    return F.pad(small, (p,) * 4).view_as(x) + edge * frames
