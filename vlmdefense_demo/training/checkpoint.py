"""Checkpoints that make a killed training continue where it stopped, and no other one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.training.photos import Photo


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training.

    Args:
        about: what makes it this training and no other; part -> its fingerprint.
    """

    path: Path
    about: dict[str, str] = field(default_factory=dict)

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
            "losses": list(losses), "about": self.about,
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


def about(
    recipe: object, photos: Sequence[Photo], *start: nn.Module, target: Tensor | None = None
) -> dict[str, str]:
    """What a training is made of, for its checkpoint.

    Args:
        start: the weights before the first step, and those of what stays as it is.
        target: what is fitted where it is not the photos.
    """
    names = (f"{p.source}/{p.file}/{p.label}\n".encode() for p in photos)
    weights = (
        piece
        for module in start
        for name, tensor in sorted(module.state_dict().items())
        for piece in (name.encode(), _bytes(tensor))
    )
    made_of = {
        "recipe": repr(recipe), "start": _digest(weights), "set of photos": _digest(names)
    }  # fmt: skip
    return made_of if target is None else made_of | {"target": _digest([_bytes(target)])}


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def _digest(pieces: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
