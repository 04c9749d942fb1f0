"""The text towers open_clip 3.3 builds, entered behind their token embeddings.

All of them do the same in three steps: look token ids up, transform the rows, pool one feature a
prompt. Prompt tuning needs the door between the first step and the second. Whatever depends on
which tokens stand where (masks, pool positions) is read from the ids: tuned vectors have none.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.types import Features

AT_END_MARK = ("argmax", "eos")
ADVICE = "Choose another model."


class TextTower(Protocol):
    """A text tower as a function of embedded tokens; keeps no state and no parameters of its own."""

    def trim(self, ids: Tensor) -> Tensor:
        """(C, L) -> (C, l) the ids without columns that cannot change any feature.

        Raises:
            MethodFailed: these ids cannot be encoded from embeddings.
        """

    def look_up(self, ids: Tensor) -> Tensor:
        """(C, l) -> (C, l, d) the embeddings of tokens, before positions are added."""

    def encode(self, words: Tensor, ids: Tensor) -> Features:
        """(C, l, d) embedded tokens and the (C, l) ids they stand for -> (C, D) features."""


class NativeTower:
    """The transformer of open_clip's `CLIP` and `CustomTextCLIP`, SigLIP's and MobileCLIP's included.

    Ids are trimmed behind the last end mark where the tower is causal and pools there: no position
    sees what follows it, and a prompt of 12 tokens costs a sixth of 77. A tower without a causal
    mask attends to padding, and one that pools at the last position reads it there.

    Args:
        tower: the module that holds the parts (the model itself for plain `CLIP`).

    Raises:
        MethodFailed: it does not pool, so that there is no feature.
    """

    def __init__(self, tower: Any) -> None:
        self.tower = tower
        self.transformer = tower.transformer
        self.pool_type: str = getattr(tower, "text_pool_type", None) or tower.pool_type
        if self.pool_type == "none":
            raise MethodFailed(
                "This text tower gives one feature a token, not one a prompt.", ADVICE
            )

    def trim(self, ids: Tensor) -> Tensor:
        """(C, L) -> (C, l) the ids without columns that cannot change any feature."""
        if self.tower.attn_mask is None or self.pool_type not in AT_END_MARK:
            return ids
        return ids[:, : int(self._pool_at(ids).max()) + 1]

    def look_up(self, ids: Tensor) -> Tensor:
        """(C, l) -> (C, l, d) the embeddings of tokens, before positions are added."""
        return self.tower.token_embedding(ids)

    def encode(self, words: Tensor, ids: Tensor) -> Features:
        """(C, l, d) embedded tokens and the (C, l) ids they stand for -> (C, D) features."""
        x = self.embed(words)
        return self.project(self.transformer(x, attn_mask=self.mask(ids, x.dtype)), ids)

    def embed(self, words: Tensor) -> Tensor:
        """(C, l, d) -> (C, L, d) what the first block sees."""
        words = words.to(self.transformer.get_cast_dtype())
        return words + self.tower.positional_embedding[: words.shape[1]].to(words.dtype)

    def mask(self, ids: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The additive mask of attention, of a shape the blocks take; None where all see all."""
        mask, length = self.tower.attn_mask, ids.shape[1]
        return None if mask is None else mask[:length, :length]

    def project(self, x: Tensor, ids: Tensor) -> Features:
        """(C, L, d) what the last block gives -> (C, D) un-normalised features."""
        x = self.tower.ln_final(x)
        return self._into_joint_space(x[torch.arange(len(x), device=x.device), self._pool_at(ids)])

    def _into_joint_space(self, pooled: Tensor) -> Features:
        projection = self.tower.text_projection
        if isinstance(projection, nn.Linear):
            return projection(pooled)
        return pooled if projection is None else pooled @ projection

    def _pool_at(self, ids: Tensor) -> Tensor:
        """(C,) the position each prompt is pooled at."""
        if self.pool_type == "argmax":
            return ids.argmax(1)
        if self.pool_type == "eos":
            eos = getattr(self.tower, "text_eos_id", None)
            return ids.eq(self.tower.eos_id if eos is None else eos).int().argmax(1)
        last = ids.shape[1] - 1 if self.pool_type == "last" else 0
        return torch.full((len(ids),), last, device=ids.device)


class CoCaTower(NativeTower):
    """The same with a class token behind all others, which is where CoCa pools.

    The class token is kept from padding by a mask that is off by one in published weights (unless
    `correct_cls_mask`), so the tower's own function builds it and no column can be left out.
    """

    def trim(self, ids: Tensor) -> Tensor:
        """The ids as they are."""
        return ids

    def embed(self, words: Tensor) -> Tensor:
        """(C, l, d) -> (C, l + 1, d) what the first block sees."""
        dtype = self.transformer.get_cast_dtype()
        last = self.tower.cls_emb.expand(len(words), 1, -1)
        x = torch.cat([words.to(dtype), last], dim=1)
        return x + self.tower.positional_embedding[: x.shape[1]].to(dtype)

    def mask(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(C * heads, l + 1, l + 1) who attends to whom."""
        length = ids.shape[1] + 1
        padding = self.tower._build_additive_mask(ids, length, dtype)
        causal = self.tower.attn_mask
        return padding if causal is None else padding + causal[:length, :length]

    def project(self, x: Tensor, ids: Tensor) -> Features:
        """(C, l + 1, d) what the last block gives -> (C, D) un-normalised features."""
        return self._into_joint_space(self.tower.ln_final(x[:, -1]))


class HFTower:
    """A Hugging Face encoder behind open_clip's `HFTextEncoder`: BERT, RoBERTa, mT5, M2M100.

    Padding is masked out of attention and of pooling, so ids are trimmed behind the longest prompt.

    Args:
        tower: the `HFTextEncoder`.

    Raises:
        MethodFailed: its pooler takes the maximum, which fails in open_clip 3.3 itself.
    """

    def __init__(self, tower: Any) -> None:
        from open_clip.hf_model import MaxPooler

        if isinstance(tower.pooler, MaxPooler):
            raise MethodFailed("open_clip's maximum pooling of text towers is broken.", ADVICE)
        self.tower = tower

    def trim(self, ids: Tensor) -> Tensor:
        """(C, L) -> (C, l) the ids without columns that are padding in every prompt.

        Raises:
            MethodFailed: there is padding before a token. Some encoders count positions around
                padding, which embeddings do not show.
        """
        valid = self._mask(ids)
        if (valid.diff(dim=1) > 0).any():
            raise MethodFailed("This model's tokenizer pads before the words.", ADVICE)
        return ids[:, : int(valid.sum(1).max())]

    def look_up(self, ids: Tensor) -> Tensor:
        """(C, l) -> (C, l, d) the embeddings of tokens, before positions are added."""
        return self.tower.transformer.get_input_embeddings()(ids)

    def encode(self, words: Tensor, ids: Tensor) -> Features:
        """(C, l, d) embedded tokens and the (C, l) ids they stand for -> (C, D) features."""
        mask = self._mask(ids)
        out = self.tower.transformer(inputs_embeds=words, attention_mask=mask)
        return self.tower.proj(self.tower.pooler(out, mask))

    def _mask(self, ids: Tensor) -> Tensor:
        return ids.ne(self.tower.config.pad_token_id).long()


def open_tower(tower: Any) -> TextTower:
    """The kind of tower a module is, ready to be entered behind its token embeddings.

    Raises:
        MethodFailed: open_clip 3.3 builds no such tower, or this one has no usable pooling.
    """
    from open_clip.hf_model import HFTextEncoder

    if isinstance(tower, HFTextEncoder):
        return HFTower(tower)
    if not hasattr(tower, "token_embedding"):
        raise MethodFailed(
            f"Prompt tuning knows the text towers open_clip builds; {type(tower).__name__} is "
            "another kind.",
            ADVICE,
        )
    appended = getattr(tower, "cls_emb", None) is not None
    return CoCaTower(tower) if appended else NativeTower(tower)
