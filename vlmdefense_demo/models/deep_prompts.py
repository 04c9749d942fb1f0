"""Deep prompts: learned tokens beside the patches and before the words, in the first blocks.

The functional form of FAP's prompts, for open_clip's own transformers. The blocks are called one by
one with the prompts as arguments: nothing is written to the model and nothing hangs on it.

Source: Zhou et al., "Few-shot Adversarial Prompt Learning on Vision-Language Models", NeurIPS 2024
(arXiv 2403.14774).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmdefense_demo.errors import MethodFailed
from vlmdefense_demo.labels import DEFAULT_TEMPLATE, fill
from vlmdefense_demo.models.prompts import ContextPrompts
from vlmdefense_demo.models.text_towers import NativeTower
from vlmdefense_demo.types import Features

if TYPE_CHECKING:
    from vlmdefense_demo.models.backbone import Backbone

DEPTH = 9
SPREAD = 0.02
WORDS = "a photo"


@dataclass(frozen=True)
class DeepPrompts:
    """The tokens themselves; row i enters before block i, in place of what block i - 1 made of them.

    Args:
        image: (depth, M, d_image), behind the patch tokens.
        text: (depth, M, d_text), right after the start token.
    """

    image: Tensor
    text: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Name -> constant tensor, as they are stored: `DeepPrompts(**tensors)` brings them back."""
        return {"image": self.image.detach().clone(), "text": self.text.detach().clone()}


class CoupledPrompts(nn.Module):
    """What FAP trains: prompts of one tower computed from those of the other.

    In the first block image prompts are a linear function of the text's, in deeper blocks it is the
    other way round. No picture enters these functions, so what they give is all that is kept.

    Args:
        context: (M, d_text) the first text prompt, to start with.
        width: d_image.
        depth: blocks that are prompted.
        seed: of the initial deeper prompts, N(0, 0.02^2), and of the linear functions.
    """

    def __init__(self, context: Tensor, width: int, depth: int = DEPTH, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        n, own = context.shape
        self.context = nn.Parameter(context.detach().clone())
        self.to_image = _linear(own, width, generator)
        deeper = torch.randn(depth - 1, n, width, generator=generator)
        self.image = nn.Parameter(SPREAD * deeper)
        first = _linear(width, own, generator)
        self.to_text = nn.ModuleList(copy.deepcopy(first) for _ in range(depth - 1))

    def forward(self) -> DeepPrompts:
        """The tokens of both towers."""
        image = torch.cat([self.to_image(self.context)[None], self.image])
        deeper = [to(rows) for to, rows in zip(self.to_text, self.image, strict=True)]
        return DeepPrompts(image, torch.stack([self.context, *deeper]))


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """torch's own initial weights, without drawing from the global generator."""
    layer = torch.nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    for value in (layer.weight, layer.bias):
        nn.init.uniform_(value, -bound, bound, generator=generator)
    return layer


def initial_prompts(
    backbone: Backbone, labels: ContextPrompts, depth: int = DEPTH, seed: int = 0
) -> CoupledPrompts:
    """Untrained prompts of a model, in as many blocks as its shallower tower has, at most `depth`.

    Raises:
        MethodFailed: the image tower is not open_clip's VisionTransformer, or the text tower not
            one of its own transformers.
    """
    tower = vision_transformer(backbone.visual)
    blocks = (len(t.transformer.resblocks) for t in (tower, _native(labels)))
    width = tower.transformer.width
    return CoupledPrompts(labels.initial.cpu(), width, min(depth, *blocks), seed).to(
        backbone.device
    )


def label_prompts(backbone: Backbone, labels: Sequence[str]) -> ContextPrompts:
    """The labels in the default template, its words "a photo" open to be replaced.

    Raises:
        InvalidLabels: a label does not fit into the context window.
        MethodFailed: as `ContextPrompts`.
    """
    return ContextPrompts(backbone, [fill(DEFAULT_TEMPLATE, label) for label in labels], WORDS)


def encode_text(labels: ContextPrompts, prompts: Tensor) -> Features:
    """(depth, M, d_text) -> (C, D) un-normalised text features; M as many as the words replaced.

    Raises:
        MethodFailed: the text tower is not one of open_clip's own transformers.
    """
    tower = _native(labels)
    x = tower.embed(labels.embed(prompts[0]))
    mask = tower.mask(labels.ids, x.dtype)
    return tower.project(_through(tower.transformer, x, prompts, labels.span, mask), labels.ids)


def _native(labels: ContextPrompts) -> NativeTower:
    if not isinstance(labels.tower, NativeTower):
        raise MethodFailed(
            "Deep prompts need open_clip's own text transformer; this model has another.",
            "Choose another model.",
        )
    return labels.tower


def encode_image(tower: Any, x: Tensor, prompts: Tensor) -> Features:
    """(B, 3, H, W) already normalised, (depth, M, d_image) -> (B, D) un-normalised features.

    The first prompts come behind the patches, after the positional embedding and before the first
    norm. They take part in attention only: pooling does not see them.

    Raises:
        MethodFailed: the tower is not open_clip's VisionTransformer.
    """
    x = vision_transformer(tower)._embeds(x)
    end = x.shape[1]
    at = slice(end, end + prompts.shape[1])
    # _embeds ends with ln_pre, which treats every token alone.
    x = _put(x, tower.ln_pre(prompts[0]), slice(end, end))
    x = _through(tower.transformer, x, prompts, at)
    pooled, _ = tower._pool(x[:, :end])
    return pooled if tower.proj is None else pooled @ tower.proj


def vision_transformer(tower: Any) -> Any:
    """The tower itself.

    Raises:
        MethodFailed: it is not open_clip's VisionTransformer.
    """
    from open_clip.transformer import VisionTransformer

    if not isinstance(tower, VisionTransformer):
        raise MethodFailed(
            f"Prompt tokens need open_clip's own vision transformer; {type(tower).__name__} is "
            "another kind of image tower.",
            "Choose a model with a ViT, such as ViT-B-32.",
        )
    return tower


def _through(
    transformer: Any, x: Tensor, prompts: Tensor, at: slice, mask: Tensor | None = None
) -> Tensor:
    """(B, L, d) through all blocks; before block i, tokens `at` become prompts[i]. L is constant."""
    other = 0 if transformer.batch_first else 1  # the dimension the blocks want the batch in
    for i, block in enumerate(transformer.resblocks):
        if 0 < i < len(prompts):
            x = _put(x, prompts[i], at)
        x = block(x.transpose(0, other), attn_mask=mask).transpose(0, other)
    return x


def _put(x: Tensor, rows: Tensor, at: slice) -> Tensor:
    """(B, L, d) with the (M, d) rows in place of the tokens `at`."""
    return torch.cat([x[:, : at.start], rows.expand(len(x), -1, -1), x[:, at.stop :]], dim=1)
