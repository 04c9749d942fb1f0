"""ZeroGPU, where a Space has it: a GPU lent for the seconds of one call, in a forked process.

Imported before anything that may touch CUDA, because `spaces` has to come first. Everywhere else
that package is missing or changes nothing, and neither does `lent`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

try:
    import spaces
except ImportError:
    spaces = None

F = TypeVar("F", bound=Callable[..., Any])
ZERO = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
OFFERED = "VLMDEFENSE_MODELS"


def lent(seconds: Callable[..., float]) -> Callable[[F], F]:
    """Run a module-level function or generator on a lent GPU.

    Arguments, yields and the return value are pickled; what it writes to this process is lost.

    Args:
        seconds: how long it will take at most, from the same arguments: what is asked of the
            visitor's quota, and the place in the line for a GPU.
    """
    if spaces is None:
        return lambda function: function
    decorate: Callable[[F], F] = spaces.GPU(duration=seconds)
    return decorate


def offered(first: str) -> tuple[str, ...]:
    """Models a ZeroGPU Space loads before it opens: what is loaded later would be lost again."""
    more = os.environ.get(OFFERED, "").replace(",", " ").split()
    return tuple(dict.fromkeys((first, *more)))
