"""A frozen CLIP-like model, shared by every request of the process.

Pixels in [0, 1] go in; resizing has happened before, normalisation happens here. Nothing ever
writes to its parameters: adapted prompts and swapped towers are arguments and new objects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlmdefense_demo.errors import InvalidLabels
from vlmdefense_demo.images import fit
from vlmdefense_demo.models import deep_prompts, visual_prompts
from vlmdefense_demo.models.folding import fold_batchnorm
from vlmdefense_demo.models.maps import Trace, locate, trace
from vlmdefense_demo.models.rollout import is_plain_vit, rollout
from vlmdefense_demo.types import Features, Images


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes model input: square size, resize mode, normalisation."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    squash: bool = False

    def fit(self, image: Image.Image) -> Image.Image:
        """A picture as the model was trained to see it, still in 8 bits."""
        return fit(image, self.size, self.squash, self.interpolation)


class Backbone:
    """One open_clip model in evaluation mode, with frozen parameters.

    Args:
        name: the id in the catalog.
        model: an open_clip `CLIP`, `CustomTextCLIP` or `CoCa`.
        tokenizer: open_clip's tokenizer of this model.
        preprocess: input geometry and normalisation.
        twin: id of the robust image tower in place of the model's own, "" for its own.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, preprocess: Preprocess, twin: str = ""
    ) -> None:
        self.name, self.twin = name, twin
        # open_clip's classes declare their parts dynamically; a static type would be a fiction.
        self.model = model.eval().requires_grad_(False)
        # Convolutions run up to twice as fast on a CPU with the channels innermost.
        self.model.visual.to(memory_format=torch.channels_last)
        self._tower: nn.Module = self.model.visual
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.device: torch.device = next(self.model.parameters()).device
        self.logit_scale = float(self.model.logit_scale.exp())
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
        # One multiply-add in place of a subtraction and a division per pass.
        self._gain, self._shift = (1 / std).to(self.device), (-mean / std).to(self.device)

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.visual

    @property
    def text(self) -> Any:
        """The module that holds the text tower (the model itself for plain `CLIP`)."""
        return getattr(self.model, "text", self.model)

    def place(self, x: Images) -> Images:
        """The same images on the model's device, in the memory order of its convolutions.

        Gradients come back in that order, and an operation on two orders takes five times as long.
        """
        return x.to(self.device, memory_format=torch.channels_last)

    def encode_image(self, x: Images) -> Features:
        """(B, 3, H, W) in [0, 1] -> (B, D) un-normalised image features."""
        out = self._through(_call, x)
        return out[0] if isinstance(out, tuple) else out

    def encode_located(self, x: Images) -> tuple[Features, Tensor]:
        """(B, 3, H, W) in [0, 1] -> image features (B, D) and their map (B, D, h, w).

        Raises:
            MethodFailed: the image tower has no grid of locations.
        """
        return self._through(locate, x)

    def encode_traced(self, x: Images) -> Trace:
        """(B, 3, H, W) in [0, 1] -> image features and the activations they can be led back to.

        Raises:
            MethodFailed: the image tower has no grid of locations.
        """
        return self._through(trace, x)

    @property
    def plain_vit(self) -> bool:
        """Whether the attention of every layer of the image tower is known: `encode_rollout`."""
        return is_plain_vit(self._tower)

    def encode_rollout(self, x: Images) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, h, w) shares of attention, through all layers of a ViT."""
        return self._through(rollout, x)

    def encode_prompted(self, x: Images, prompts: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1], (depth, M, d) tokens beside the patches -> (B, D) features.

        Raises:
            MethodFailed: the image tower is not open_clip's VisionTransformer.
        """
        return self._through(partial(deep_prompts.encode_image, prompts=prompts), x)

    def blank_prompt(self) -> Tensor:
        """The prompt that changes nothing, for `encode_watched`."""
        return visual_prompts.blank(self._tower, self.preprocess.size).to(self.device)

    def encode_watched(self, x: Images, prompts: Tensor) -> tuple[Features, list[Tensor]]:
        """(B, 3, H, W) in [0, 1], (B, *blank) added prompts -> (B, D) features, and what layers saw.

        Raises:
            MethodFailed: the layers of the image tower are not known.
        """
        return self._through(partial(visual_prompts.watch, prompts=prompts), x)

    def _through(self, function: Callable[[Any, Tensor], Any], x: Images) -> Any:
        """`function(tower, normalised x)`: the only place where pixels meet the image tower."""
        x = torch.addcmul(self._shift, x, self._gain)
        return function(self._tower, x.contiguous(memory_format=torch.channels_last))

    def warm_up(self) -> None:
        """Fold what is frozen for good, and run once: no request pays for the first call's set-up.

        `visual` stays as it was loaded; weights written to it afterwards are not seen.
        """
        size = self.preprocess.size
        self._tower = fold_batchnorm(self.model.visual, size)
        with torch.enable_grad():
            x = torch.full((1, 3, size, size), 0.5, device=self.device, requires_grad=True)
            torch.autograd.grad(self.encode_image(x).sum(), x)

    def encode_ids(self, ids: Tensor) -> Features:
        """(C, L) token ids -> (C, D) un-normalised text features."""
        return self.model.encode_text(ids, normalize=False)  # CoCa's default is True

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (C, L) token ids on the model's device.

        Raises:
            InvalidLabels: a prompt does not fit the context window.
        """
        window = self.model.context_length
        for prompt in prompts:
            length = self._length(prompt)
            if length > window:
                raise InvalidLabels(
                    f"“{prompt[:40]}…” has {length} tokens; this model reads {window}.",
                    "Shorten the label or the template.",
                )
        return self.tokenizer(list(prompts)).to(self.device)

    def _length(self, prompt: str) -> int:
        """Tokens with start and end marks; tokenizers without `encode` truncate by themselves."""
        encode = getattr(self.tokenizer, "encode", None)
        return len(encode(prompt)) + 2 if encode else 0

    def with_visual(self, visual: nn.Module, twin: str) -> Backbone:
        """The same text tower and scale behind another image tower; nothing is copied."""
        model = copy.copy(self.model)
        model._modules = dict(self.model._modules) | {"visual": visual}
        return Backbone(self.name, model, self.tokenizer, self.preprocess, twin)


def _call(tower: Any, x: Tensor) -> Any:
    return tower(x)
