"""Small seeded models and inputs: everything a test needs in place of trained weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.border import Border
from vlmdefense_demo.models.classifier import ZeroShotClassifier
from vlmdefense_demo.models.deep_prompts import DeepPrompts
from vlmdefense_demo.models.statistics import Stream
from vlmdefense_demo.models.variants import Variant, write_variant
from vlmdefense_demo.models.visual_prompts import blank, watch
from vlmdefense_demo.run import Meter, Run

LABELS = ("cat", "dog", "red car", "bird")
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
CONVNEXT = {
    "image_size": 32,
    "timm_model_name": "test_convnext",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "causal": {"vision_cfg": CONVNEXT, "text_cfg": TEXT, "custom_text": True},
    "bidirectional": {
        "vision_cfg": VIT,
        "text_cfg": TEXT | {"no_causal_mask": True},
        "custom_text": True,
    },
}
WITH_PATCHES = ("vit", "bidirectional")
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.3, 0.2], "resize_mode": "shortest"}


def seeded_model(name: str, seed: int = 0, **extra: Any) -> nn.Module:
    """A model of `CONFIGS` with random weights that spread its features; global RNG untouched."""
    config = {k: v for k, v in CONFIGS[name].items() if k != "custom_text"} | {"embed_dim": 24}
    kind = open_clip.CustomTextCLIP if "custom_text" in CONFIGS[name] else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**json.loads(json.dumps(config)), **extra).eval()
        for key, value in model.named_parameters():
            _spread(key, value.data)
    return model


def _spread(key: str, value: Tensor) -> None:
    """open_clip's initial weights map every input to nearly the same feature; these do not."""
    if "token_embedding" in key:
        nn.init.normal_(value, std=0.5)
    elif "logit_scale" in key:
        value.fill_(3.5)
    elif key.endswith(("bn1.weight", "bn2.weight", "bn3.weight")):
        value.fill_(2.0)
    elif value.dim() >= 2:
        value.mul_(3.0)


def save_model(folder: Path, name: str) -> Path:
    """Write a tiny model as open_clip does, with a tower or prompt for every training-time method."""
    folder.mkdir(parents=True)
    config = CONFIGS[name] | {"embed_dim": 24}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS})
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_file(seeded_model(name).state_dict(), folder / "open_clip_model.safetensors")
    size = config["vision_cfg"]["image_size"]
    for seed, method in enumerate(("fare", "tecoa", "pmg_aft", "tga_zsr"), 1):
        for eps, more in ((2, 10), (3, 0)):  # the larger one is the default
            twin = seeded_model(name, seed=seed + more).visual.state_dict()
            file = f"{method}{eps if more else ''}.safetensors"
            write_variant(folder, Variant(method, file, eps, "seeded"), twin)
    frame = {k: v.data for k, v in Border(size).parts.items()}
    write_variant(folder, Variant("tecoa_vp", "tecoa_vp.safetensors", 3, "seeded"), frame)
    for seed, (method, tower) in enumerate({"apt": "tecoa", "advpt": ""}.items()):
        generator = torch.Generator().manual_seed(seed)
        context = {"context": torch.randn(4, TEXT["width"], generator=generator)}
        about = Variant(method, f"{method}.safetensors", 3, "seeded", tower=tower)
        write_variant(folder, about, context)
    if name in WITH_PATCHES:
        about = Variant("fap", "fap.safetensors", 1, "seeded")
        write_variant(folder, about, deep_prompts().tensors())
    about = Variant("tapt", "tapt.safetensors", 3, "seeded")
    write_variant(folder, about, usual_statistics(name, size))
    levels = torch.randint(108, 149, (size, size, 3), generator=torch.Generator().manual_seed(2))
    Image.fromarray(levels.to(torch.uint8).numpy()).save(folder / "universal.png")
    return folder


def usual_statistics(name: str, size: int) -> dict[str, Tensor]:
    """Layer statistics of the tiny model and of another one, on a few pictures."""
    x, tensors = images(8, size, seed=7), {}
    for seed, kind in enumerate(("clean", "robust")):
        tower, stream = seeded_model(name, seed=seed).visual, Stream()
        zero = blank(tower, size)
        with torch.no_grad():
            stream.add(watch(tower, 2 * x - 1, zero.expand(8, *zero.shape))[1])
        tensors |= stream.moments().tensors(kind)
    return tensors


def deep_prompts(depth: int = 2, n: int = 2, seed: int = 0) -> DeepPrompts:
    """Random prompts of both towers of the tiny ViT, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        torch.randn(depth, n, width, generator=generator) for width in (VIT["width"], TEXT["width"])
    )
    return DeepPrompts(image, text / 2)


def classifier(backbone: Backbone, labels=LABELS, template="a photo of a {}.", **more) -> Any:
    """A classifier without gradients in its text features."""
    with torch.no_grad():
        return ZeroShotClassifier(backbone, labels, template, **more)


class Rowwise(Backbone):
    """A backbone that encodes image by image, so that batch size cannot change rounding."""

    def encode_image(self, x: Tensor) -> Tensor:
        return torch.cat([Backbone.encode_image(self, row[None]) for row in x])


def rowwise(backbone: Backbone) -> Rowwise:
    return Rowwise(backbone.name, backbone.model, backbone.tokenizer, backbone.preprocess)


class RowwiseClassifier(ZeroShotClassifier):
    """Logits row by row, too: the tiny ResNet's gradient turns another rounding into another step."""

    def logits(self, features: Tensor) -> Tensor:
        return torch.cat([super(RowwiseClassifier, self).logits(row[None]) for row in features])


def rowwise_classifier(backbone: Backbone) -> RowwiseClassifier:
    with torch.no_grad():
        return RowwiseClassifier(rowwise(backbone), LABELS, "a photo of a {}.")


def images(n: int = 1, size: int = 32, seed: int = 0) -> Tensor:
    """(n, 3, size, size) smooth noise on the 8-bit grid, with black and white pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(-40, 296, (n, 3, 8, 8), generator=generator).float()
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return smooth.round().clamp(0, 255) / 255


def images_for(backbone: Backbone, n: int = 1, seed: int = 0) -> Tensor:
    return images(n, backbone.preprocess.size, seed)


def run_for(n: int = 1, seed: int = 0, meter: Meter | None = None, **kwargs: Any) -> Run:
    """A run with the row ids "0" .. "n-1"."""
    return Run(seed, tuple(map(str, range(n))), "/test", meter or Meter(), **kwargs)


def t0() -> nn.Module:
    """The reference net of research/attacks_eval.md §6.1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2048, 10),
        ).eval()
    with torch.no_grad():
        net[-1].weight.mul_(8)
    return net.requires_grad_(False)


def t0_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (16, 3, 32, 32), generator=generator) / 255


class Linear:
    """logits = <w_k, x> + b_k, computed row by row: every answer is known in closed form."""

    def __init__(self, k: int = 4, size: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(k, 3 * size * size, generator=generator) / 10
        self.bias = torch.randn(k, generator=generator)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([self.weight @ row.flatten() + self.bias for row in x])


class Boom(RuntimeError):
    """Raised by targets that fail on purpose."""


def fails_at(call: int, function: Any) -> Any:
    """`function`, except that its `call`-th call raises `Boom`."""
    calls = iter(range(1, 10_000))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise Boom
        return function(*args, **kwargs)

    return wrapped


def stops_at(poll: int) -> Any:
    """A `should_stop` that answers True from its `poll`-th poll on."""
    polls = iter(range(1, 10_000))
    return lambda: next(polls) >= poll


def _hooks(module: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(m, kind)) for m in module.modules() for kind in kinds]


def fingerprint(*modules: nn.Module) -> dict[str, Any]:
    """All state a method could leave a trace in: global generators, modes, weights, hooks."""
    digest = hashlib.blake2b()
    for module in modules:
        for tensor in module.state_dict().values():
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    parameters = [p for m in modules for p in m.parameters()]
    return {
        "torch rng": torch.get_rng_state().numpy().tobytes(),
        "numpy rng": str(np.random.get_state()),  # noqa: NPY002
        "python rng": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "weights": digest.hexdigest(),
        "gradients": [p.grad is None for p in parameters],
        "requires_grad": [p.requires_grad for p in parameters],
        "training": [m.training for module in modules for m in module.modules()],
        "hooks": [_hooks(m) for m in modules],
    }


@contextlib.contextmanager
def no_trace(*modules: nn.Module) -> Iterator[None]:
    """Fails if the block changes anything of `fingerprint`, also when the block raises."""
    before = fingerprint(*modules)
    try:
        yield
    finally:
        after = fingerprint(*modules)
        changed = [key for key, value in before.items() if after[key] != value]
        assert not changed, f"left a trace in: {', '.join(changed)}"


def timeless(card):
    """A card as JSON without what a clock wrote into it."""
    data = card.to_json()
    data["slowdown"] = None
    for part in (data, data["attack"] or {}, *data["ladder"]):
        if part.get("cost"):
            part["cost"]["seconds"] = None
    return data
