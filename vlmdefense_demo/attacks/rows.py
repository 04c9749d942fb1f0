"""Rows of a batch, taken, put back and chosen; an image that stays what it is is not copied.

Copying one under a mask takes as long as a whole step inside the ball, and on a CPU it can be
seen beforehand that nothing has to be. Nothing here waits for a GPU. What comes back may be what
went in: write to neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmdefense_demo.types import Images


def choose(first: Tensor, one: Images, other: Images) -> Images:
    """Row by row `one` where `first` (B,) bool holds, else `other`."""
    if first.device.type == "cpu":
        told = first.tolist()
        if all(told):
            return one
        if not any(told):
            return other
    return torch.where(first[:, None, None, None], one, other)


def take(whole: Tensor, rows: Tensor) -> Tensor:
    """The given rows; `rows` (n,) are ascending, so that as many as there are is all of them."""
    return whole if len(rows) == len(whole) else whole[rows]


def put(whole: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """The batch with `new` in the given rows, which ascend."""
    return new if len(rows) == len(whole) else whole.index_copy(0, rows, new)
