"""Checkpoints that make a killed training continue where it stopped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def save(path: Path, tower: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write weights, optimiser and step count; a kill while writing leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"tower": tower.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def resume(path: Path, tower: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load a checkpoint, if there is one, and return the step to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    tower.load_state_dict(state["tower"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
