"""Prompt context as explicit vectors: the functional form of a prompt learner.

The context vectors are an argument, so tuning them writes nothing to the model and there is nothing
to reset afterwards. What differs between text towers stands in text_towers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.models.text_towers import open_tower
from vlmdefense_demo.types import Features, Note

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone


PLACEHOLDER = "X"
TOKENS = 4096  # whose activations are kept for a gradient at once: 64 prompts of 64 tokens


@dataclass(frozen=True, eq=False)  # by identity: a tensor has no hash of its values
class LearnedContext:
    """Words that were learned: vectors in place of the template's, for any labels.

    Args:
        context: (n_ctx, d) in the space of the text tower's token embeddings.
        tower: id of the robust image tower it was learned with, "" for the model's own.
        notes: how it was trained, for the card.
        model: name of the model it belongs to.
        tower_eps: radius that tower was trained for, in levels; 0 is the largest there is.
    """

    context: Tensor
    tower: str = ""
    notes: tuple[Note, ...] = ()
    model: str = ""
    tower_eps: float = 0


class ContextPrompts:
    """C prompts that share their first words; those words' embeddings are the context.

    Ids are trimmed where that changes nothing (see text_towers.py).

    Args:
        backbone: any model open_clip 3.3 builds.
        prompts: C prompts.
        prefix: the words all prompts start with, e.g. "a photo of a".

    Raises:
        InvalidLabels: the prefix is empty.
        MethodFailed: the text tower is of a kind that cannot be entered behind its embeddings, or
            the tokenizer does not keep the prefix's tokens apart from the rest.
    """

    def __init__(self, backbone: Backbone, prompts: Sequence[str], prefix: str) -> None:
        if not prefix:
            raise InvalidLabels(
                "Prompt tuning adapts the words before the label, and this template has none.",
                "Use a template like “a photo of a {}.”",
            )
        self.tower = open_tower(backbone.text)
        self.ids = self.tower.trim(backbone.tokenize(prompts))
        self.span = self._span(backbone, prefix)
        with torch.no_grad():
            self.embeddings = self.tower.look_up(self.ids)  # (C, L, d)
        self.initial = self.embeddings[0, self.span].clone()  # (n_ctx, d)

    def encode(self, context: Tensor) -> Features:
        """(n_ctx, d) -> (C, D) un-normalised text features.

        Where a gradient is wanted through more than `TOKENS` tokens, activations are not kept but
        computed again on the way back, a few prompts at a time: the same numbers from a bounded
        memory, for one more forward pass (which no meter sees) a gradient.
        """
        words = self.embed(context)
        if not words.requires_grad or self.ids.numel() <= TOKENS:
            return self.tower.encode(words, self.ids)
        n = max(1, TOKENS // self.ids.shape[1])
        # A frozen tower in evaluation mode draws nothing, so there is no generator to restore.
        parts = [
            checkpoint(self.tower.encode, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(words.split(n), self.ids.split(n), strict=True)
        ]
        return torch.cat(parts)

    def embed(self, context: Tensor) -> Tensor:
        """(n_ctx, d) -> (C, L, d) the embedded tokens, before positions are added."""
        shared = context.to(self.embeddings.dtype).expand(len(self.ids), -1, -1)
        before, after = self.embeddings[:, : self.span.start], self.embeddings[:, self.span.stop :]
        return torch.cat([before, shared, after], dim=1)

    def _span(self, backbone: Backbone, prefix: str) -> slice:
        """Where the prefix's tokens lie, behind the start marks if the tokenizer sets any."""
        bare, empty = backbone.tokenize([prefix, ""]).tolist()
        rows = self.ids.tolist()
        start, stop = _shared([bare, empty]), _shared([bare, *rows])
        if stop <= start:
            raise MethodFailed("The prompts do not start with the template's words.")
        return slice(start, stop)


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows start with."""
    columns = zip(*rows, strict=False)  # trimmed rows are shorter
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def placeholders(backbone: Backbone, labels: Sequence[str], n_ctx: int) -> ContextPrompts:
    """The prompts "X X … X label." whose n_ctx first words are to be learned.

    Raises:
        InvalidLabels: a label does not fit behind so many words.
        MethodFailed: as `ContextPrompts`, or the tokenizer makes another number of tokens of them.
    """
    prefix = " ".join([PLACEHOLDER] * n_ctx)
    prompts = ContextPrompts(backbone, [f"{prefix} {label}." for label in labels], prefix)
    found = prompts.span.stop - prompts.span.start
    if found != n_ctx:
        raise MethodFailed(f"This tokenizer makes {found} tokens of {n_ctx} words to be learned.")
    return prompts
