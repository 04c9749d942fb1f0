"""Attack CLIP on your own image, then compare three kinds of defence.

    from vlmdefense_demo import Goal, ZeroShotClassifier, attack, defend, load_image, load_model

    clf = ZeroShotClassifier(load_model("pocket"), ["cat", "dog"], "a photo of a {}.")
    x = load_image("cat.jpg")
    adversarial = attack("pgd", clf, x, Goal(clf(x).argmax(1)), eps=4 / 255)
    print(defend("fare", clf, adversarial.images).logits.softmax(1))

Names are imported when they are first used, so the package itself stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load_model": "models.catalog",
    "MODELS": "models.catalog",
    "ZeroShotClassifier": "models.classifier",
    "load_image": "images",
    "Goal": "types",
    "Run": "run",
    "attack": "library",
    "defend": "library",
    "compare": "engine",
    "Request": "request",
    "Aim": "request",
    "SURVEY": "survey",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
