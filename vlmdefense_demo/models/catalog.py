"""The models this demo may load: the embedded one, and an allow-list of published ones.

`load_model` hands out one shared frozen backbone per (name, device). Names come from the list
below; `local-dir:PATH` is accepted for command lines only, never from a page or an endpoint. What
was trained for a model's defence is in variants.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmdefense_demo.errors import MissingWeights, UnknownMethod
from vlmdefense_demo.models.backbone import Backbone, Preprocess

ASSETS = Path(__file__).resolve().parents[2] / "assets"
POCKET = ASSETS / "pocket-clip"
LOCAL = "local-dir:"
UNIVERSAL, MIDDLE = "universal.png", 128
Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelEntry:
    """One loadable model.

    Args:
        architecture: open_clip's name of it, or a ``local-dir:`` / ``hf-hub:`` address.
        pretrained: open_clip's tag of the weights, "" if the address has its own.
        megabytes: the download, for the progress message.
    """

    name: str
    title: str
    architecture: str
    pretrained: str = ""
    megabytes: int = 0
    licence: str = "MIT"

    @property
    def folder(self) -> Path | None:
        """The model's directory on this machine, None for a downloaded one."""
        place = self.architecture
        return Path(place.removeprefix(LOCAL)) if place.startswith(LOCAL) else None


MODELS: dict[str, ModelEntry] = {
    m.name: m
    for m in (
        ModelEntry("pocket", "pocket-clip (embedded)", f"{LOCAL}{POCKET}"),
        ModelEntry("ViT-B-32", "CLIP ViT-B/32 (LAION-2B)", "ViT-B-32", "laion2b_s34b_b79k", 605),
        ModelEntry("ViT-B-16", "CLIP ViT-B/16 (LAION-2B)", "ViT-B-16", "laion2b_s34b_b88k", 599),
        ModelEntry("convnext_base_w", "CLIP ConvNeXt-B (LAION-2B)", "convnext_base_w",
                   "laion2b_s13b_b82k_augreg", 718),
        ModelEntry("ViT-L-14", "CLIP ViT-L/14 (OpenAI)", "ViT-L-14-quickgelu", "openai", 1710),
        ModelEntry("ViT-B-32-openai", "CLIP ViT-B/32 (OpenAI)", "ViT-B-32-quickgelu", "openai",
                   605),
        ModelEntry("RN50-openai", "CLIP ResNet-50 (OpenAI)", "RN50-quickgelu", "openai", 408),
        ModelEntry("MobileCLIP2-S0", "MobileCLIP2-S0 (fast on a CPU)", "MobileCLIP2-S0", "dfndr2b",
                   300, "Apple Machine Learning Research"),
    )
}  # fmt: skip

_loaded: dict[tuple[str, str], Backbone] = {}
_lock = threading.Lock()


def unheard(sentence: str) -> None:
    """The default listener of `load_model`."""


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" -> cuda, else mps, else cpu; anything else is taken at its word.

    Raises:
        MissingWeights: a device was asked for that is not there.
    """
    if name == "auto":
        best = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else best)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name.split(":")[0], True):
        raise MissingWeights(f"There is no {name} device on this machine.", "Use --device auto.")
    return torch.device(name)


def load_model(name: str = "pocket", device: str = "auto", *, say: Say = unheard) -> Backbone:
    """The process-wide frozen backbone of a catalog name.

    Args:
        name: a key of `MODELS`, or ``local-dir:PATH`` of an open_clip model directory.
        device: "auto", "cpu", "cuda" or "mps".
        say: receives one sentence before a download starts.

    Raises:
        UnknownMethod: the name is not in the catalog.
        MissingWeights: no network, no such file, or a damaged download.
    """
    where = pick_device(device)
    entry = entry_of(name)
    with _lock:
        key = (name, str(where))
        if key not in _loaded:
            if entry.megabytes:
                say(f"Loading {entry.title}: up to {entry.megabytes} MB on first use.")
            with torch.random.fork_rng(devices=[]):  # open_clip draws weights it then overwrites
                backbone = _load(entry, where)
            backbone.warm_up()
            _loaded[key] = backbone
        return _loaded[key]


def is_loaded(name: str, device: str = "auto") -> bool:
    """Whether `load_model` would answer at once; never waits for a model that is loading."""
    try:
        return (name, str(pick_device(device))) in _loaded
    except MissingWeights:
        return False


def forget() -> None:
    """Drop every loaded model (see `variants.forget_models`)."""
    with _lock:
        _loaded.clear()


def load_universal(backbone: Backbone) -> Tensor:
    """The (1, 3, H, W) perturbation made for a model, in pixel units, from its own folder.

    Raises:
        MissingWeights: there is none.
    """
    folder = entry_of(backbone.name).folder
    if folder is None or not (folder / UNIVERSAL).exists():
        raise MissingWeights(
            f"There is no universal perturbation for {backbone.name}.",
            "Choose the embedded model.",
        )
    with Image.open(folder / UNIVERSAL) as image:
        levels = np.asarray(image.convert("RGB")).astype(np.float32) - MIDDLE
    return torch.from_numpy(levels / 255).permute(2, 0, 1)[None]


def entry_of(name: str) -> ModelEntry:
    """The catalog entry of a name, or one made up for a ``local-dir:`` path.

    Raises:
        UnknownMethod: the name is not in the catalog.
    """
    if name in MODELS:
        return MODELS[name]
    if name.startswith(LOCAL):
        return ModelEntry(name, Path(name.removeprefix(LOCAL)).name, name)
    raise UnknownMethod(f"Unknown model {name!r}.", f"Known: {', '.join(MODELS)}.")


def _load(entry: ModelEntry, device: torch.device) -> Backbone:
    import open_clip

    with readable_errors(entry.title):
        model = open_clip.create_model(
            entry.architecture,
            pretrained=entry.pretrained or None,
            precision="fp32",
            require_pretrained=True,  # without weights open_clip would only warn and make some up
        )
        tokenizer = open_clip.get_tokenizer(entry.architecture)
    return Backbone(entry.name, model.to(device), tokenizer, preprocess_of(model))


def preprocess_of(model: nn.Module) -> Preprocess:
    """Input geometry and normalisation as open_clip recorded them on the model."""
    cfg: dict[str, Any] = dict(model.visual.preprocess_cfg)  # type: ignore[union-attr, arg-type]
    size = cfg.get("size", 224)
    return Preprocess(
        size=size if isinstance(size, int) else int(size[0]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg.get("interpolation", "bicubic"),
        squash=cfg.get("resize_mode") == "squash",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:160] or type(error).__name__


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Every way a download or a file can fail, as one sentence with the cure."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from safetensors import SafetensorError

    try:
        yield
    # First, because older hubs derive LocalEntryNotFoundError from HfHubHTTPError.
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise MissingWeights(
            f"{what} is not on this machine and the hub cannot be reached.",
            "Connect to the network once, or use the embedded model.",
        ) from error
    except HfHubHTTPError as error:
        raise MissingWeights(
            f"The hub refused {what}: {_first_line(error)}",
            "Check the token (HF_TOKEN) or choose another model.",
        ) from error
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise MissingWeights(
            f"The file of {what} is incomplete or damaged.", "Delete it and download it again."
        ) from error
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise MissingWeights(
            f"{what} could not be loaded ({_first_line(error)}).",
            "Check the network or the folder, or use the embedded model.",
        ) from error
