"""What one method may fail with, on some picture or device, without taking the others along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vlmdefense_demo.errors import Cancelled, DemoError
from vlmdefense_demo.types import Note

FAILURES = (DemoError, torch.cuda.OutOfMemoryError, NotImplementedError)


@contextmanager
def noted(what: str, write: Callable[[Note], None], before: str = "stopped: ") -> Iterator[None]:
    """End the block where it fails, and write down why; Stop goes on outwards."""
    try:
        yield
    except Cancelled:
        raise
    except FAILURES as error:
        write(Note(what, f"{before}{error}"))
