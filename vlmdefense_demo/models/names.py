"""The class names that open_clip ships."""

from __future__ import annotations

from collections.abc import Sequence


def imagenet_names() -> Sequence[str]:
    """The thousand classes of ImageNet, as CLIP's authors call them."""
    import open_clip  # slow to import

    return open_clip.IMAGENET_CLASSNAMES
