"""Where the time goes, as ratios taken in one run: the figures of docs/measurements.md."""

from vlmdefense_demo.speed.pairs import defences, towers
from vlmdefense_demo.speed.shares import attacks

__all__ = ["attacks", "defences", "towers"]
