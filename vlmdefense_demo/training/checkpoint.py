"""Checkpoints that make a killed training continue where it stopped, and no other one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.models.fingerprint import fingerprint
from vlmdefense_demo.training.photos import Photo


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training.

    Args:
        about: what makes it this training and no other; part -> its fingerprint.
    """

    path: Path
    about: Mapping[str, str]

    def save(
        self,
        trained: nn.Module,
        optimiser: torch.optim.Optimizer,
        step: int,
        losses: Sequence[float] = (),
    ) -> None:
        """Write weights, optimiser and steps done; a kill while writing leaves the old file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "tower": trained.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
            "losses": list(losses), "about": dict(self.about),
        }  # fmt: skip
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(
        self, trained: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[int, list[float]]:
        """Load the file, if there is one: the step to go on with, and the losses so far.

        Raises:
            InvalidParameter: it belongs to another training.
        """
        if not self.path.exists():
            return 0, []
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        before = state.get("about", {})
        other = [part for part in self.about if before.get(part) != self.about[part]]
        if other:
            raise InvalidParameter(
                f"{self.path} belongs to a training with another {' and another '.join(other)}.",
                "Delete it, or name another folder with --work.",
            )
        trained.load_state_dict(state["tower"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"]), list(state["losses"])


def about(recipe: object, photos: Sequence[Photo], *start: nn.Module) -> dict[str, str]:
    """What a training is made of, for its checkpoint.

    Args:
        start: the weights before the first step, and those of what stays as it is.
    """
    names = "\n".join(f"{p.source}/{p.file}/{p.label}" for p in photos)
    return {
        "recipe": repr(recipe),
        "start": fingerprint(*start),
        "set of photos": hashlib.sha256(names.encode()).hexdigest(),
    }
