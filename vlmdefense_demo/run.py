"""All randomness and all measuring.

`Run` is a seed tree: row i of any noise depends only on (seed, path, ids[i]), so switching one
defence on never changes another's result, a batch equals its single images, and CPU and GPU
draw the same numbers (drawn on the CPU, then moved). The global generator is never touched.

`Meter` counts samples through the towers. Only `ZeroShotClassifier` ticks it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from vlmdefense_demo.errors import Cancelled
from vlmdefense_demo.types import Cost

Tower = Literal["image", "text"]
Progress = Callable[[str, int, int], None]


class Meter:
    """Books of one request. Stages nest; a pass is booked on every open stage."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._open: list[Cost] = []

    @contextmanager
    def stage(self) -> Iterator[Cost]:
        """Time a block and count the passes inside it; the cost is complete after the block."""
        cost = Cost()
        cuda = self.device.type == "cuda"
        self._wait()
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._open.append(cost)
        start = time.perf_counter()
        try:
            yield cost
            self._wait()
        finally:
            cost.seconds = time.perf_counter() - start
            if cuda:
                cost.peak_bytes = torch.cuda.max_memory_allocated(self.device)
            self._open.pop()  # stages nest, and equal costs are not the same cost

    def _wait(self) -> None:
        """For what was given to a GPU to be done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def tick(self, tower: Tower, out: Tensor) -> None:
        """Book a forward of `out`'s rows, and its backward whenever a gradient arrives at `out`."""
        samples = out.shape[0]
        self._book(f"{tower}_forward", samples)
        if out.requires_grad:
            # A hook that names `out` would keep a graph alive that nobody ever walks back.
            out.register_hook(lambda _: self._book(f"{tower}_backward", samples))

    def _book(self, name: str, samples: int) -> None:
        for cost in self._open:
            setattr(cost, name, getattr(cost, name) + samples)


def silent(stage: str, step: int, total: int) -> None:
    """The default progress callback: nobody listens."""


@dataclass(frozen=True)
class Run:
    """One request's seed, image identities, meter, progress and stop flag.

    Args:
        seed: the only seed there is.
        ids: one string per image of the batch; noise of a row depends on its id, not its place.
        path: where in the tree this run is, e.g. "ttc/noise".
        meter: the request's books.
        on_progress: called with (path, step, total).
        should_stop: polled once per step; True raises `Cancelled`.
        trace: series a method records, name -> one (B,) tensor a step; shared with children.
    """

    seed: int = 0
    ids: tuple[str, ...] = ("0",)
    path: str = ""
    meter: Meter = field(default_factory=Meter)
    on_progress: Progress = silent
    should_stop: Callable[[], bool] = bool
    trace: dict[str, list[Tensor]] = field(default_factory=dict)

    def child(self, name: str) -> Run:
        """The same run, one level deeper in the seed tree."""
        return replace(self, path=f"{self.path}/{name}")

    def select(self, rows: list[int]) -> Run:
        """The run of a subset of the batch."""
        return replace(self, ids=tuple(self.ids[i] for i in rows))

    def generator(self, row: int) -> torch.Generator:
        """A fresh CPU generator for one row at this path."""
        key = f"{self.seed}|{self.path}|{self.ids[row]}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform noise of `like`'s shape (B, ...), row by row, on `like`'s device."""
        return self._rows(like, lambda s, g: torch.rand(s, generator=g).mul_(high - low).add_(low))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise of `like`'s shape (B, ...)."""
        return self._rows(like, lambda s, g: torch.randn(s, generator=g))

    def levels(self, like: Tensor, radius: int) -> Tensor:
        """Integer noise in {-radius .. radius} / 255 of `like`'s shape: on the 8-bit lattice."""
        return self._rows(
            like, lambda s, g: torch.randint(-radius, radius + 1, s, generator=g) / 255
        )

    def _rows(self, like: Tensor, draw: Callable[[torch.Size, torch.Generator], Tensor]) -> Tensor:
        if like.shape[0] != len(self.ids):
            raise ValueError(f"expected {len(self.ids)} rows (one per id), got {like.shape[0]}")
        rows = [draw(like.shape[1:], self.generator(i)) for i in range(like.shape[0])]
        return torch.empty_like(like).copy_(torch.stack(rows))

    def record(self, name: str, values: Tensor) -> None:
        """Append one (B,) value to a series, without waiting for the device."""
        self.trace.setdefault(name, []).append(values.detach())

    def step(self, i: int, total: int) -> None:
        """Report progress and honour Stop. Call once per iteration of every loop.

        Raises:
            Cancelled: the person pressed Stop.
        """
        if self.should_stop():
            raise Cancelled("Stopped.")
        self.on_progress(self.path.strip("/"), i, total)
