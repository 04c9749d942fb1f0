"""Rates with intervals that respect what was measured twice, and pairs compared on the same pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, pvariance

from scipy import stats

from vlmdefense_demo.training.report import wilson

ALPHA = 0.05


@dataclass(frozen=True)
class Rate:
    """A share of pictures.

    Args:
        value: in [0, 1].
        low, high: the 95 % Wilson interval.
        n: pictures.
    """

    value: float
    low: float
    high: float
    n: int

    def percent(self) -> str:
        """ "88.5 [83.3, 92.2]" """
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def rate(outcomes: Iterable[tuple[str, bool]]) -> Rate:
    """(picture, hit) -> the share of hits; several draws of a picture are one cluster.

    Wilson's interval for as many independent answers as would vary that much: at least the pictures,
    at most the draws. Draws that agree add nothing, draws that differ narrow the interval.
    """
    draws: dict[str, list[bool]] = defaultdict(list)
    for picture, hit in outcomes:
        draws[picture].append(hit)
    means = [fmean(hits) for hits in draws.values()]
    n, value = len(means), fmean(means)
    spread = pvariance(means) / n
    uniform, most = value * (1 - value), sum(map(len, draws.values()))
    independent = n if not uniform else most if not spread else min(most, max(n, uniform / spread))
    low, high = wilson(value * independent, independent)
    return Rate(value, low, high, n)


@dataclass(frozen=True)
class Pair:
    """Two defences on the same pictures.

    Args:
        only_first, only_second: pictures that only one of them answers rightly.
        p: of McNemar's exact test.
    """

    only_first: int
    only_second: int
    p: float

    @property
    def differ(self) -> bool:
        """Whether chance is an unlikely reason, at 5 %."""
        return self.p < ALPHA


def mcnemar(first: Mapping[str, bool], second: Mapping[str, bool]) -> Pair:
    """The exact test on pictures both were measured on."""
    both = first.keys() & second.keys()
    one = sum(first[k] and not second[k] for k in both)
    two = sum(second[k] and not first[k] for k in both)
    p = stats.binomtest(one, one + two).pvalue if one + two else 1.0
    return Pair(one, two, float(p))


def separable(n: int) -> float:
    """The smallest difference of two rates that n pictures can tell apart, in [0, 1].

    All discordant pictures on one side: fewer of them, and McNemar's exact test stays above 5 %.
    """
    least = next(k for k in range(1, 64) if 0.5 ** (k - 1) < ALPHA)
    return min(1.0, least / n)
