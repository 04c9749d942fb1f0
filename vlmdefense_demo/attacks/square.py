"""Square: a random search that asks for scores and never sees a gradient.

Source: Andriushchenko et al., "Square Attack", ECCV 2020 (arXiv 1912.00049), L-infinity. Differs
from the reference code: every image draws its own squares, so a batch equals its single images. With
the reference's draws it is bit-identical to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker, Eps
from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn

FULL_QUERIES = 10_000
HALVE_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square(Attacker):
    """Vertical stripes of +-eps, then squares of +-eps that are kept where they help.

    A square covers the share p of the image; p falls by half after 10, 50, 200 ... of 10,000
    queries, and with a smaller budget correspondingly earlier. One query is one forward.
    """

    eps: Eps = 8 / 255
    queries: Annotated[int, Range(1, 5000, 1), "forwards at most"] = 300
    p_init: Annotated[float, Range(0.05, 1, 0.05), "first square, share of the image"] = 0.8
    rescale: Annotated[bool, "shrink faster with a small budget"] = True

    @torch.no_grad()
    def __call__(self, target: LogitFn, x: Images, goal: Goal, *, run: Run) -> Images:
        """(B, 3, H, W) -> adversarial images of the same shape, inside the ball.

        Raises:
            InvalidImage: pictures that are not square.
        """
        side = x.shape[2]
        if x.shape[3] != side:
            raise InvalidImage(
                f"Square needs square pictures, got {x.shape[3]}×{side}.", "Crop the picture."
            )
        stripes = run.child("stripes").uniform(x[:, :, :1, :], -1, 1).sign()
        best = (x + self.eps * stripes).clamp(0, 1)
        value = goal.maximise(target(best), margin)
        run.record("margin", value.clone())
        low, high = (x - self.eps).clamp_min(0), (x + self.eps).clamp_max(1)
        draws = run.child("squares")
        places = draws.uniform(torch.empty(len(x), self.queries, 2 + x.shape[1]))
        for i in range(1, self.queries):
            run.step(i, self.queries)
            rows = (value < 0).nonzero().squeeze(1)  # a tie counts as fooled, as in the reference
            if not len(rows):
                break
            square = self._square(i, side, places[rows.cpu(), i], x)
            new = torch.clamp(best[rows] + square, low[rows], high[rows])
            reached = goal.select(rows).maximise(target(new), margin)
            better = reached > value[rows]
            best[rows] = torch.where(better[:, None, None, None], new, best[rows])
            value[rows] = torch.where(better, reached, value[rows])
            run.record("margin", value.clone())
        return best

    def _square(self, i: int, side: int, draw: Tensor, like: Images) -> Tensor:
        """(n, C, H, W) the change of query i: one sign a channel inside a square, zero outside."""
        s = max(round(math.sqrt(self._share(i) * side * side)), 1)
        s = min(s, side - 1) if side > 1 else 1
        corner = ((side - s) * draw[:, :2]).long()
        place = torch.arange(side)
        inside = (place >= corner[..., None]) & (place < corner[..., None] + s)  # (n, 2, side)
        mask = inside[:, 0, :, None] & inside[:, 1, None, :]
        signs = (2 * draw[:, 2:] - 1).sign()
        return (2.0 * self.eps * signs[..., None, None] * mask[:, None]).to(like)

    def _share(self, i: int) -> float:
        """The share of the image that query i's square covers."""
        at = i / self.queries * FULL_QUERIES if self.rescale else i
        at = int(at)
        return self.p_init / 2 ** sum(at > limit for limit in HALVE_AFTER)
