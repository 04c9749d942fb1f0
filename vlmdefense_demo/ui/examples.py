"""The example gallery: photos that ship inside this demo's dependencies, and label presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio
import skimage

EVERYDAY = (
    "cat", "dog", "lion", "cheetah", "coffee", "rocket", "person", "tower", "motorcycle", "car",
)  # fmt: skip
PRESETS: dict[str, tuple[str, ...]] = {
    "Everyday things": EVERYDAY,
    "Cats, fine-grained": (
        "tabby cat", "Egyptian Mau", "tiger cat", "Siamese cat", "lynx", "cougar", "red fox",
    ),
    "Animals": (
        "cat", "dog", "lion", "cheetah", "bear", "horse", "elephant", "bird", "fish", "frog",
    ),
    "Vehicles": (
        "motorcycle", "car", "bicycle", "bus", "truck", "train", "airplane", "boat", "rocket",
    ),
    "Food and drink": (
        "coffee", "pizza", "hamburger", "strawberry", "wine", "ice cream", "soup", "bread",
    ),
    "Animal or thing?": ("animal", "vehicle", "food", "building", "person", "furniture"),
}  # fmt: skip


def preset_of(labels: Sequence[str]) -> str | None:
    """The name of a list of labels, if it is one of ours."""
    return next((name for name, some in PRESETS.items() if some == tuple(labels)), None)


@dataclass(frozen=True)
class Example:
    """One gallery photo and the answer a person would give."""

    caption: str
    path: Path
    answer: str


def examples() -> tuple[Example, ...]:
    """The photos that are really there; a package that drops one only shortens the gallery."""
    science = Path(skimage.__file__).parent / "data"
    page = Path(gradio.__file__).parent / "media_assets" / "images"
    rows: tuple[tuple[str, Path, str], ...] = (
        ("cat", science / "chelsea.png", "cat"),
        ("lion", page / "lion.jpg", "lion"),
        ("cheetah", page / "cheetah1.jpg", "cheetah"),
        ("coffee", science / "coffee.png", "coffee"),
        ("rocket", science / "rocket.jpg", "rocket"),
        ("astronaut", science / "astronaut.png", "person"),
        ("tower", page / "tower.jpg", "tower"),
        ("motorcycle", science / "motorcycle_left.png", "motorcycle"),
    )
    exists: Callable[[Path], bool] = Path.exists
    return tuple(Example(c, p, a) for c, p, a in rows if exists(p))
