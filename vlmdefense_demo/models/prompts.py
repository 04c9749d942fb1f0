"""Prompt context as explicit vectors: the functional form of a prompt learner.

For open_clip's native text towers. The context vectors are an argument, so tuning them writes
nothing to the model and there is nothing to reset afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlmdefense_demo.errors import InvalidLabels, MethodFailed
from vlmdefense_demo.types import Features, Note

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone


PLACEHOLDER = "X"


@dataclass(frozen=True, eq=False)  # by identity: a tensor has no hash of its values
class LearnedContext:
    """Words that were learned: vectors in place of the template's, for any labels.

    Args:
        context: (n_ctx, d) in the space of the text tower's token embeddings.
        tower: id of the robust image tower it was learned with, "" for the model's own.
        notes: how it was trained, for the card.
        model: name of the model it belongs to.
    """

    context: Tensor
    tower: str = ""
    notes: tuple[Note, ...] = ()
    model: str = ""


class ContextPrompts:
    """C prompts that share their first words; those words' embeddings are the context.

    On causal towers that pool at the end-of-text token, ids are trimmed behind the last end mark:
    exact, because no position sees what follows it, and 3 to 9 times cheaper. Bidirectional towers
    (MobileCLIP2-S0) attend to padding, so they keep their full length.

    Args:
        backbone: its native text tower.
        prompts: C prompts.
        prefix: the words all prompts start with, e.g. "a photo of a".

    Raises:
        InvalidLabels: the prefix is empty.
        MethodFailed: the text tower is not one of open_clip's own transformers.
    """

    def __init__(self, backbone: Backbone, prompts: Sequence[str], prefix: str) -> None:
        if not prefix:
            raise InvalidLabels(
                "Prompt tuning adapts the words before the label, and this template has none.",
                "Use a template like “a photo of a {}.”",
            )
        self.tower = backbone.text
        if getattr(self.tower, "cls_emb", None) is not None or not hasattr(
            self.tower, "token_embedding"
        ):
            raise MethodFailed(
                f"Prompt tuning supports open_clip's own text transformers; "
                f"{type(self.tower).__name__} is another kind.",
                "Choose another model.",
            )
        ids = backbone.tokenize(prompts)
        self.pool_at = self._pool_positions(ids)
        mask = getattr(self.tower, "attn_mask", None)
        if mask is not None and self._pool_type in ("argmax", "eos"):
            length = int(self.pool_at.max()) + 1
            ids, mask = ids[:, :length], mask[:length, :length]
        self.ids, self.mask = ids, mask
        self.span = self._span(backbone, prefix)
        with torch.no_grad():
            self.embeddings = self.tower.token_embedding(ids)  # (C, L, d)
        self.initial = self.embeddings[0, self.span].clone()  # (n_ctx, d)

    def encode(self, context: Tensor) -> Features:
        """(n_ctx, d) -> (C, D) un-normalised text features."""
        return self.project(self.tower.transformer(self.embed(context), attn_mask=self.mask))

    def embed(self, context: Tensor) -> Tensor:
        """(n_ctx, d) -> (C, L, d) what the first block of the tower sees."""
        tower = self.tower
        start, stop = self.span.start, self.span.stop
        shared = context.to(self.embeddings.dtype).expand(len(self.ids), -1, -1)
        x = torch.cat([self.embeddings[:, :start], shared, self.embeddings[:, stop:]], dim=1)
        x = x.to(tower.transformer.get_cast_dtype())
        return x + tower.positional_embedding[: x.shape[1]].to(x.dtype)

    def project(self, x: Tensor) -> Features:
        """(C, L, d) the last block's output -> (C, D) un-normalised text features."""
        x = self.tower.ln_final(x)
        pooled = x[torch.arange(len(x), device=x.device), self.pool_at]
        projection = self.tower.text_projection
        if isinstance(projection, nn.Linear):
            return projection(pooled)
        return pooled if projection is None else pooled @ projection

    @property
    def _pool_type(self) -> str:
        return getattr(self.tower, "text_pool_type", None) or self.tower.pool_type

    def _pool_positions(self, ids: Tensor) -> Tensor:
        """(C,) the position each prompt is pooled at; from the ids, never from embeddings."""
        kind = self._pool_type
        if kind == "argmax":
            return ids.argmax(1)
        if kind == "eos":
            eos = getattr(self.tower, "text_eos_id", None) or self.tower.eos_id
            return ids.eq(eos).int().argmax(1)
        return torch.full((len(ids),), ids.shape[1] - 1 if kind == "last" else 0, device=ids.device)

    def _span(self, backbone: Backbone, prefix: str) -> slice:
        """Where the prefix's tokens lie, behind the start mark if the tokenizer sets one."""
        bare = backbone.tokenize([prefix])[0].tolist()
        ids = self.ids.tolist()
        shared = 0
        while shared < len(ids[0]) and all(row[shared] == bare[shared] for row in ids):
            shared += 1
        start = 1 if getattr(backbone.tokenizer, "sot_token_id", None) == bare[0] else 0
        if shared <= start:
            raise MethodFailed("The prompts do not start with the template's words.")
        return slice(start, shared)


def placeholders(backbone: Backbone, labels: Sequence[str], n_ctx: int) -> ContextPrompts:
    """The prompts "X X … X label." whose n_ctx first words are to be learned.

    Raises:
        InvalidLabels: a label does not fit behind so many words.
        MethodFailed: the text tower is not one of open_clip's own transformers.
    """
    prefix = " ".join([PLACEHOLDER] * n_ctx)
    return ContextPrompts(backbone, [f"{prefix} {label}." for label in labels], prefix)
