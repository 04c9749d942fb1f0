"""Mean and variance of what enters or leaves each part of an image tower, and how far two are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Samples = Sequence[
    Tensor
]  # one (N, ...) tensor a layer; what follows N is the same for all samples


@dataclass(frozen=True)
class Moments:
    """One tensor a layer: (tokens, width) for a transformer, (channels,) for a convolutional tower."""

    mean: tuple[Tensor, ...]
    variance: tuple[Tensor, ...]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Name -> tensor, as they are stored: `stored` brings them back."""
        return {
            f"{name}.{kind}.{i}": value
            for kind, values in (("mean", self.mean), ("variance", self.variance))
            for i, value in enumerate(values)
        }


def stored(tensors: Mapping[str, Tensor], name: str) -> Moments:
    """The moments that were stored under a name."""
    layers = range(sum(key.startswith(f"{name}.mean.") for key in tensors))
    mean, variance = (
        tuple(tensors[f"{name}.{kind}.{i}"] for i in layers) for kind in ("mean", "variance")
    )
    return Moments(mean, variance)


def moments(samples: Samples) -> Moments:
    """Of a handful of samples; the variance is biased, so that one sample has variance zero."""
    return Moments(
        tuple(s.mean(0) for s in samples), tuple(s.var(0, unbiased=False) for s in samples)
    )


def distance(a: Moments, b: Moments) -> Tensor:
    """() half the mean absolute difference of the means, half that of the variances; layers' mean."""
    pairs = (*zip(a.mean, b.mean, strict=True), *zip(a.variance, b.variance, strict=True))
    return torch.stack([(p - q).abs().mean() for p, q in pairs]).mean()


class Stream:
    """Moments of more samples than fit into memory, batch by batch.

    Source: Chan, Golub & LeVeque's update of Welford's, in double precision on the CPU, because not
    every device has it.
    """

    def __init__(self) -> None:
        self._n: list[int] = []
        self._mean: list[Tensor] = []
        self._squares: list[Tensor] = []

    def add(self, samples: Samples) -> None:
        """Count a batch in."""
        if not self._n:
            self._n = [0] * len(samples)
            self._mean = [torch.zeros(s.shape[1:], dtype=torch.float64) for s in samples]
            self._squares = [torch.zeros_like(m) for m in self._mean]
        for i, sample in enumerate(samples):
            s = sample.detach().cpu().double()
            n, more = self._n[i], len(s)
            mean = s.mean(0)
            away = mean - self._mean[i]
            self._squares[i] += (s - mean).square().sum(0) + away.square() * n * more / (n + more)
            self._mean[i] += away * more / (n + more)
            self._n[i] = n + more

    def moments(self) -> Moments:
        """Of everything counted in, two samples or more; the variance is unbiased."""
        variance = [q / (n - 1) for q, n in zip(self._squares, self._n, strict=True)]
        return Moments(tuple(m.float() for m in self._mean), tuple(v.float() for v in variance))
