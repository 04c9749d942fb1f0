"""Fonts that come with the dependencies: none has to be installed, and none is asked for a letter it lacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PIL import ImageFont

from vlmdefense_demo.errors import InvalidParameter

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def lettering(word: str) -> Callable[[float], Font]:
    """Size in pixels -> a font with all letters of a word: Pillow's own, or matplotlib's, which has more.

    Raises:
        InvalidParameter: neither has them.
    """
    if word.isascii():
        return ImageFont.load_default
    from matplotlib import get_data_path  # slow to import
    from matplotlib.ft2font import FT2Font

    path = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    known = FT2Font(path).get_charmap()
    missing = next((letter for letter in word if ord(letter) not in known), "")
    if missing:
        raise InvalidParameter(
            f"“{word}” cannot be written on a picture: no font here has “{missing}”.",
            "Use a label in Latin, Greek or Cyrillic letters.",
        )
    return partial(ImageFont.truetype, path)
