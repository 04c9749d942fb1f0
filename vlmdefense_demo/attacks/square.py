"""Square: a random search that asks for scores and never sees a gradient.

Source: Andriushchenko et al., "Square Attack", ECCV 2020 (arXiv 1912.00049), L-infinity. Differs
from the reference code: every image draws its own squares, so a batch equals its single images. With
the reference's draws it is bit-identical to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vlmdefense_demo.attacks.base import Attacker, Eps
from vlmdefense_demo.attacks.rows import choose, put, take
from vlmdefense_demo.errors import InvalidImage
from vlmdefense_demo.losses import margin
from vlmdefense_demo.run import Run
from vlmdefense_demo.spec import Range
from vlmdefense_demo.types import Goal, Images, LogitFn

FULL_QUERIES = 10_000
BLOCK = 100
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
        run.record("margin", value)
        low, high = (x - self.eps).clamp_min(0), (x + self.eps).clamp_max(1)
        draws = run.child("squares").uniform(torch.empty(len(x), self.queries, 2 + x.shape[1]))
        for i, (down, across) in enumerate(self._squares(side, draws, x), 1):
            run.step(i, self.queries)
            rows = (value < 0).nonzero().squeeze(1)  # a tie counts as fooled, as in the reference
            if not len(rows):
                break
            old, held = take(best, rows), take(value, rows)
            # One value of the product is 1 or 0, so it is exact and the sum rounds once.
            new = torch.addcmul(old, take(down, rows), take(across, rows))
            new.clamp_(take(low, rows), take(high, rows))
            asked = goal if len(rows) == len(x) else goal.select(rows)
            reached = asked.maximise(target(new), margin)
            better = reached > held
            best = put(best, rows, choose(better, new, old))
            value = put(value, rows, torch.where(better, reached, held))
            run.record("margin", value)
        return best

    def _squares(self, side: int, draws: Tensor, like: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """For every query after the first (B, C, H, 1) and (B, 1, 1, W): their product is its change.

        It is +-2 eps, one sign a channel, inside a square, and zero outside. No square depends on an
        answer, so they are drawn up a block at a time.
        """
        place = torch.arange(side)
        for first in range(1, self.queries, BLOCK):
            draw = draws[:, first : first + BLOCK]
            queries = range(first, first + draw.shape[1])
            edge = torch.tensor([self._edge(i, side) for i in queries])[:, None, None]
            corner = ((side - edge) * draw[..., :2, None]).long()
            inside = (place >= corner) & (place < corner + edge)  # (B, n, 2, side)
            signs = (2 * draw[..., 2:] - 1).sign()
            down = 2.0 * self.eps * signs[..., None] * inside[:, :, :1]
            across = inside[:, :, 1, None, None].to(like)
            yield from zip(down[..., None].to(like).unbind(1), across.unbind(1), strict=True)

    def _edge(self, i: int, side: int) -> int:
        """How many pixels query i's square is wide."""
        edge = max(round(math.sqrt(self._share(i) * side * side)), 1)
        return min(edge, side - 1) if side > 1 else 1

    def _share(self, i: int) -> float:
        """The share of the image that query i's square covers."""
        at = i / self.queries * FULL_QUERIES if self.rescale else i
        at = int(at)
        return self.p_init / 2 ** sum(at > limit for limit in HALVE_AFTER)
