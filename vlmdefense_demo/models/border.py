"""TeCoA's visual prompt: a learned frame added to the picture's border, in normalised units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmdefense_demo.types import Images

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone

WIDTH, AT_SIZE = 30, 224


class Border(nn.Module):
    """A frame of 30 pixels at 224: 69,840 numbers, added to what is already there.

    Args:
        size: side of the square input; the frame's width grows with it.
        seed: of the initial N(0, 1).
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__()
        width = width_at(size)
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "top": (1, 3, width, size),
            "bottom": (1, 3, width, size),
            "left": (1, 3, size - 2 * width, width),
            "right": (1, 3, size - 2 * width, width),
        }
        self.parts = nn.ParameterDict(
            {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        )

    def forward(self) -> Tensor:
        """(1, 3, S, S) the frame, zero inside."""
        return assemble(dict(self.parts.items()))


def width_at(size: int) -> int:
    """Of the frame, for a square input of `size` pixels."""
    return max(1, round(WIDTH * size / AT_SIZE))


def edge(size: int) -> Tensor:
    """(1, 3, S, S): one where the frame is, zero inside."""
    p = width_at(size)
    return F.pad(torch.zeros(1, 3, size - 2 * p, size - 2 * p), (p,) * 4, value=1.0)


def assemble(parts: Mapping[str, Tensor]) -> Tensor:
    """Top, bottom, left and right strips -> the (1, 3, S, S) frame, zero inside."""
    left, right = parts["left"], parts["right"]
    inside = left.new_zeros(1, 3, left.shape[2], parts["top"].shape[3] - 2 * left.shape[3])
    middle = torch.cat([left, inside, right], dim=3)
    return torch.cat([parts["top"], middle, parts["bottom"]], dim=2)


def framed(backbone: Backbone, x: Images, frame: Tensor) -> Images:
    """Pixels whose normalised value is that of x plus the frame; they may leave [0, 1]."""
    std = torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1).to(x)
    return x + frame * std
