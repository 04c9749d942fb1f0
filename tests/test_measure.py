"""Distances between two 8-bit pictures, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmdefense_demo.measure import distances


@pytest.fixture
def clean():
    return np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)


def test_identical_pictures_have_no_psnr(clean):
    out = distances(clean, clean.copy())
    assert out == {"linf": 0, "l2": 0, "changed": 0, "psnr": None, "ssim": pytest.approx(1)}


def test_one_changed_pixel(clean):
    clean[3, 4] = (100, 50, 0)
    attacked = clean.copy()
    attacked[3, 4] = (103, 46, 0)
    out = distances(clean, attacked)
    assert out["linf"] == 4
    assert out["l2"] == pytest.approx(5 / 255)
    assert out["changed"] == pytest.approx(1 / (16 * 12))
    assert out["psnr"] == pytest.approx(10 * math.log10(255**2 / (25 / clean.size)))
    assert 0 < out["ssim"] < 1


def test_differences_do_not_wrap_around():
    black, white = (np.full((8, 8, 3), v, np.uint8) for v in (0, 255))
    for pair in ((black, white), (white, black)):
        out = distances(*pair)
        assert out["linf"] == 255
        assert out["changed"] == 1
        assert out["psnr"] == pytest.approx(0)
        assert out["l2"] == pytest.approx(math.sqrt(8 * 8 * 3))
        assert out["ssim"] < 0.01


def test_results_are_plain_numbers(clean):
    assert all(type(v) is float for v in distances(clean, 255 - clean).values())
