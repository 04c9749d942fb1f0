"""`--quick`: a first look in about a minute and a half on two cores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# Eight photos that ship with the dependencies, a method a paradigm, a short climb.
QUICK = {
    "images": ["bundled"], "defenses": "undefended,fare,rtpt:views=8,ttc", "eps": "1,4",
    "steps": "clean,transfer,adaptive,latency", "adaptive_steps": 5, "draws": 1, "worlds": "names,noise",
    "file": Path("benchmark-quick.jsonl"),
}  # fmt: skip


class Quick(argparse.Action):
    """Settings of a first look; what is written after the flag changes them."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, *_: Any) -> None:
        """Set them all."""
        for name, value in QUICK.items():
            setattr(namespace, name, value)
