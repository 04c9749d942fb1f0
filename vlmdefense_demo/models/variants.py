"""What was trained to defend a model: robust image towers and learned prompts.

A model's folder lists its own in variants.json, each with what a card says about it and the
checksum of its file; published checkpoints of real CLIP are listed here. Prompts that a person
trains for a downloaded model lie in assets/learned/NAME/.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmdefense_demo.errors import MissingWeights
from vlmdefense_demo.models import catalog
from vlmdefense_demo.models.backbone import Backbone
from vlmdefense_demo.models.catalog import ASSETS, MODELS, ModelEntry, entry_of, readable_errors
from vlmdefense_demo.models.prompts import LearnedContext
from vlmdefense_demo.types import Note

MANIFEST, HUB = "variants.json", "hf-hub:"
MOST_BETWEEN = 4


@dataclass(frozen=True)
class Variant:
    """One trained tower or prompt of one model.

    Args:
        method: its survey id.
        source: a safetensors file beside the manifest, or an ``hf-hub:`` address of a whole model.
        eps: radius it was trained for, in levels of 255.
        recipe, data, accuracy: one line each, for the card; accuracy names its source.
        tower, tower_eps: the robust tower a prompt was learned with and its eps, "" for the model's own.
        sha256: of the file, "" for a download.
    """

    method: str
    source: str
    eps: float
    recipe: str = ""
    data: str = ""
    accuracy: str = ""
    licence: str = "MIT"
    tower: str = ""
    tower_eps: float = 0
    sha256: str = ""


def _published(method: str, eps: int, repo: str, clean: float, *robust: float) -> Variant:
    """A checkpoint of RobustVLM, with the averages its README reports."""
    radii = ("1 / 2 / 4", "2 / 4")[len(robust) == 2]
    rates = " / ".join(f"{rate:g}" for rate in robust)
    return Variant(
        method,
        f"{HUB}chs20/{repo}",
        eps,
        "two epochs of ImageNet by the authors",
        "ImageNet",
        f"published: {clean:g} % clean, {rates} % at {radii}/255, mean of zero-shot sets, "
        "APGD-CE and APGD-T (RobustVLM's README)",
    )


_B32, _B16 = "ViT-B-32-laion2B-s34B-b79K", "ViT-B-16-laion2B-s34B-b88K"
_NEXT = "convnext_base_w-laion2B-s13B-b82K-augreg"
PUBLISHED: dict[str, tuple[Variant, ...]] = {
    "ViT-B-32": (
        _published("fare", 4, f"FARE4-{_B32}", 53.8, 44.4, 35.5, 21.2),
        _published("tecoa", 4, f"TeCoA4-{_B32}", 46.8, 40.6, 34.5, 23.3),
    ),
    "ViT-B-16": (
        _published("fare", 4, f"FARE4-{_B16}", 56.6, 47.7, 39.2, 23.5),
        _published("tecoa", 4, f"TeCoA4-{_B16}", 51.5, 45.0, 38.4, 26.4),
    ),
    "convnext_base_w": (
        _published("fare", 4, f"FARE4-{_NEXT}", 60.2, 52.3, 44.1, 28.4),
        _published("tecoa", 4, f"TeCoA4-{_NEXT}", 56.2, 50.4, 44.1, 31.8),
    ),
    "ViT-L-14": (
        _published("fare", 2, "fare2-clip", 67.0, 43.1, 20.5),
        _published("fare", 4, "fare4-clip", 61.1, 45.9, 32.4),
        _published("tecoa", 2, "tecoa2-clip", 60.0, 43.6, 27.0),
        _published("tecoa", 4, "tecoa4-clip", 54.2, 42.3, 31.9),
    ),
}

_towers: dict[tuple[str, str, str], Backbone] = {}
_between: OrderedDict[tuple[nn.Module, nn.Module, float], Backbone] = OrderedDict()
_told: dict[tuple[str, str, float], tuple[Note, ...]] = {}  # a defence asks at every answer
_lock = threading.RLock()


def variants(model: str, method: str) -> tuple[Variant, ...]:
    """What there is of a method for a model, smallest eps first."""
    entry = entry_of(model)
    every = (*PUBLISHED.get(model, ()), *_listed(folder_of(entry)))
    return tuple(sorted((v for v in every if v.method == method), key=lambda v: v.eps))


def missing(model: str, method: str) -> str:
    """Why a method has no weights for a model, in a sentence; "" if it has."""
    if variants(model, method):
        return ""
    where = [name for name in MODELS if variants(name, method)]
    others = f"Models that have them: {', '.join(where)}." if where else "No model has them yet."
    return f"There are no {method} weights for {model}. {others}"


def find(model: str, method: str, eps: float = 0) -> Variant:
    """The variant trained at `eps` levels, or at the largest there is for 0.

    Raises:
        MissingWeights: there is none.
    """
    found = variants(model, method)
    if not found:
        sentence, _, hint = missing(model, method).partition(". ")
        raise MissingWeights(f"{sentence}.", hint)
    same = [v for v in found if eps in (0, v.eps)]
    if not same:
        there = ", ".join(f"{v.eps:g}" for v in found)
        raise MissingWeights(
            f"There is no {method} tower trained at {eps:g}/255 for {model}.",
            f"Trained at: {there} of 255.",
        )
    return same[-1]


def load_twin(backbone: Backbone, method: str, eps: float = 0) -> Backbone:
    """The backbone with its image tower swapped for a robust one; loaded once, kept in memory.

    Raises:
        MissingWeights: none exists for this model, or it cannot be fetched.
    """
    variant = find(backbone.name, method, eps)
    with _lock:
        key = (backbone.name, variant.source, str(backbone.device))
        if key not in _towers:
            # What inference mode makes could never be attacked, and is kept for everybody.
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                visual = _load_visual(backbone, variant)
                twin = backbone.with_visual(visual.to(backbone.device), method)
                twin.warm_up()
            _towers[key] = twin
        return _towers[key]


def between(backbone: Backbone, twin: Backbone, alpha: float) -> Backbone:
    """The tower (1 - alpha) clean + alpha robust, weight by weight; the last few are kept.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022; TeCoA's code has
    it as mix_alpha.

    Args:
        alpha: 0 is the backbone itself, 1 the twin.
    """
    if alpha in (0, 1):
        return twin if alpha else backbone
    with _lock:
        key = (backbone.visual, twin.visual, alpha)
        if key not in _between:
            with torch.inference_mode(False):
                visual = copy.deepcopy(backbone.visual)
                visual.load_state_dict(mixture(backbone.visual, twin.visual, alpha))
                mixed = backbone.with_visual(visual, twin.twin)
                mixed.warm_up()
            _between[key] = mixed
        _between.move_to_end(key)
        if len(_between) > MOST_BETWEEN:
            _between.popitem(last=False)
        return _between[key]


def mixture(clean: nn.Module, robust: nn.Module, alpha: float) -> dict[str, Tensor]:
    """The weights (1 - alpha) clean + alpha robust; integer buffers are the clean tower's."""
    theirs = robust.state_dict()
    return {
        name: torch.lerp(ours, theirs[name], alpha) if ours.is_floating_point() else ours
        for name, ours in clean.state_dict().items()
    }


def load_learned(backbone: Backbone, method: str) -> dict[str, Tensor]:
    """The tensors of a learned prompt, on the model's device.

    Raises:
        MissingWeights: none exists for this model, or its file is damaged.
    """
    with torch.inference_mode(False):
        tensors = _read(entry_of(backbone.name), find(backbone.name, method))
    return {name: value.float().to(backbone.device) for name, value in tensors.items()}


def load_context(backbone: Backbone, method: str) -> LearnedContext:
    """The learned words of a prompt method.

    Raises:
        MissingWeights: none exist for this model, or their file is damaged.
    """
    context, variant = load_learned(backbone, method)["context"], find(backbone.name, method)
    notes = training_notes(backbone, method)
    return LearnedContext(context, variant.tower, notes, tower_eps=variant.tower_eps)


def training_notes(backbone: Backbone, method: str, eps: float = 0) -> tuple[Note, ...]:
    """What training bought, for the card: size, radius, recipe, data, accuracy, licence."""
    key = (backbone.name, method, eps)  # not the backbone, which a benchmark makes anew
    if key not in _told:
        _told[key] = _notes(find(*key), megabytes(backbone, method, eps))
    return _told[key]


def _notes(variant: Variant, size: float) -> tuple[Note, ...]:
    facts = {
        "weights": f"{size:.1f} MB" if size >= 0.1 else f"{1000 * size:.0f} kB",
        "file": f"{variant.source}, {variant.licence}",
        "trained": f"at {variant.eps:g}/255: {variant.recipe}; {variant.data}",
        "accuracy": variant.accuracy,
    }
    return tuple(Note(title, value) for title, value in facts.items() if value)


def megabytes(backbone: Backbone, method: str, eps: float = 0) -> float:
    """What a variant takes on disk; for a download, what its image tower takes in memory."""
    variant = find(backbone.name, method, eps)
    file = folder_of(entry_of(backbone.name)) / variant.source
    if file.exists():
        return file.stat().st_size / 1e6
    return sum(p.numel() * p.element_size() for p in backbone.visual.parameters()) / 1e6


def forget_models() -> None:
    """Drop every loaded model and variant; the next request loads again."""
    with _lock:
        catalog.forget()
        _towers.clear()
        _between.clear()
        _forget_lists()


def write_variant(folder: Path, variant: Variant, tensors: dict[str, Tensor]) -> None:
    """Write a file and its line in the folder's manifest; a kill while writing leaves the old one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{variant.source}.partial"
    save_file(tensors, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    rows = {v.source: v for v in _listed(folder)} | {
        variant.source: Variant(**_plain(variant) | {"sha256": digest})
    }
    partial.replace(folder / variant.source)
    manifest = folder / f"{MANIFEST}.partial"
    manifest.write_text(json.dumps([_plain(v) for v in rows.values()], indent=1) + "\n", "utf-8")
    manifest.replace(folder / MANIFEST)
    _forget_lists()


def _forget_lists() -> None:
    _listed.cache_clear()
    _told.clear()


def folder_of(entry: ModelEntry) -> Path:
    """Where a model's manifest and trained files lie."""
    return entry.folder or ASSETS / "learned" / entry.name


def _plain(variant: Variant) -> dict[str, Any]:
    return {f.name: getattr(variant, f.name) for f in fields(variant)}


@cache  # a defence asks at every answer
def _listed(folder: Path) -> tuple[Variant, ...]:
    manifest = folder / MANIFEST
    if not manifest.exists():
        return ()
    with readable_errors(str(manifest)):
        return tuple(Variant(**row) for row in json.loads(manifest.read_text("utf-8")))


def _read(entry: ModelEntry, variant: Variant) -> dict[str, Tensor]:
    from safetensors.torch import load

    with readable_errors(variant.source):
        data = (folder_of(entry) / variant.source).read_bytes()
    if hashlib.sha256(data).hexdigest() != variant.sha256:
        raise MissingWeights(
            f"{variant.source} is incomplete or damaged: its checksum is not that of {MANIFEST}.",
            "Fetch it again.",
        )
    return load(data)


def _load_visual(backbone: Backbone, variant: Variant) -> nn.Module:
    if variant.source.startswith(HUB):
        return _fetch(backbone, variant.source)
    weights = _read(entry_of(backbone.name), variant)
    visual = copy.deepcopy(backbone.visual).float()
    with readable_errors(variant.source):
        visual.load_state_dict(weights)
    return visual


def _fetch(backbone: Backbone, source: str) -> nn.Module:
    import open_clip

    with readable_errors(source):
        model = open_clip.create_model(source, precision="fp32", require_pretrained=True)
    if _activations(model.visual) != _activations(backbone.visual):
        raise MissingWeights(f"{source} uses another activation than {backbone.name}.")
    return model.visual


def _activations(module: nn.Module) -> set[str]:
    return {type(m).__name__ for m in module.modules() if "GELU" in type(m).__name__}
