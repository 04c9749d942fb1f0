"""The figures of a comparison, without what threads would share."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ui import stories
from vlmdefense_demo import figures
from vlmdefense_demo.curves import Curve, Line

THEMES = {"light": figures.LIGHT, "dark": figures.DARK}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def has(picture: np.ndarray, colour: str) -> bool:
    """Whether many pixels have nearly this colour."""
    return int((np.abs(picture.astype(int) - rgb(colour)).max(axis=2) <= 12).sum()) > 20


def curve(n: int = 3) -> Curve:
    lines = [Line(f"m{i}", f"M{i}", "training_free", (1.0, 0.5, i / n)) for i in range(n)]
    return Curve("along", (0, 2, 4), tuple(lines))


@pytest.mark.parametrize("name", THEMES)
def test_figures_are_sharp_small_and_on_the_pages_own_ground(name):
    theme = THEMES[name]
    cards = [stories.undefended(), stories.defended("fare"), stories.defended("ttc")]
    drawn = [figures.margins(stories.attack(), theme), figures.radius(curve(), theme),
             figures.price(cards, theme)]  # fmt: skip
    for png in drawn:
        picture = pixels(png)
        assert picture.shape[1] == 2 * figures.WIDTH
        assert picture[0, 0].tolist() == pytest.approx(rgb(theme.paper), abs=3)
        assert len(png) < 30_000


def test_text_has_at_least_eleven_pixels_where_a_figure_is_330_wide():
    assert figures.TEXT / figures.PIXEL * 330 / figures.WIDTH >= 11


def test_a_curve_needs_two_points():
    for margins in ((), (1.0,)):
        assert figures.margins(stories.attack(margins=margins), figures.LIGHT) is None
    assert figures.margins(stories.attack(margins=(-math.inf, 0.0, 1.0)), figures.LIGHT)


def test_the_price_shows_paradigms_that_ran_in_their_colours():
    colours = figures.LIGHT.colours
    card = stories.defended("fare")
    picture = pixels(figures.price([stories.undefended(), card], figures.LIGHT))
    assert has(picture, colours["training_time"])
    assert not has(picture, colours["test_time"])
    assert figures.price([stories.defended(error="x", clean=None, attacked=None, cost=None)],
                         figures.LIGHT) is None  # fmt: skip


def test_paradigms_differ_in_more_than_colour():
    assert len(set(figures.MARKERS.values())) == len(figures.MARKERS) == 4


def test_lines_of_one_paradigm_have_dashes_of_their_own():
    styles = figures._styles(curve(4))
    assert len({str(style) for style in styles}) == 4


def test_more_lines_make_a_taller_figure_not_a_smaller_plot():
    few, many = (pixels(figures.radius(curve(n), figures.LIGHT)) for n in (2, 24))
    assert many.shape[0] > few.shape[0] + 2 * 150
    assert many.shape[1] == few.shape[1]


def test_nothing_here_uses_pyplot():
    for name in ("figures", "heatmap", "report"):
        source = (Path(figures.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        assert "import pyplot" not in source
        assert "matplotlib.pyplot" not in source
