"""Pictures of a perturbation on a stated scale."""

from __future__ import annotations

import numpy as np
import pytest

from vlmdefense_demo.heatmap import gain_for, magnitude, signed_difference


@pytest.fixture
def pair():
    clean = np.full((4, 6, 3), 100, np.uint8)
    attacked = clean.copy()
    attacked[0, 0] = (104, 96, 100)
    attacked[1, 1, 2] = 102
    return clean, attacked


def test_signed_difference_is_mid_grey_where_nothing_changed(pair):
    out = np.asarray(signed_difference(*pair, gain=10))
    assert out.shape == (4, 6, 3)
    assert out[0, 0].tolist() == [168, 88, 128]
    assert out[1, 1].tolist() == [128, 128, 148]
    assert (out[2:] == 128).all()


def test_signed_difference_saturates_instead_of_wrapping(pair):
    assert np.asarray(signed_difference(*pair, gain=100))[0, 0].tolist() == [255, 0, 128]


def test_magnitude_uses_a_fixed_scale_not_its_own_maximum(pair):
    eight, four = (np.asarray(magnitude(*pair, top)) for top in (8, 4))
    assert eight.shape == (4, 6, 3)
    assert eight[0, 0].sum() < four[0, 0].sum()
    assert (eight[1, 1] != eight[0, 0]).any()
    assert eight[2, 2].sum() < 10


def test_magnitude_is_symmetric_and_monotone():
    clean = np.full((1, 9, 3), 128, np.uint8)
    attacked = clean.copy()
    attacked[0, :, 1] = 128 + np.arange(9)
    bright = np.asarray(magnitude(clean, attacked, 8)).astype(int).sum(axis=2)[0]
    assert (np.diff(bright) > 0).all()
    assert np.array_equal(
        np.asarray(magnitude(clean, attacked, 8)), np.asarray(magnitude(attacked, clean, 8))
    )


def test_magnitude_of_no_budget_does_not_divide_by_zero(pair):
    assert np.asarray(magnitude(pair[0], pair[0], 0)).sum() < 100


@pytest.mark.parametrize("levels", [0, 1, 2, 4, 8, 16, 32, 127, 200])
def test_gain_spreads_the_budget_without_clipping_it(levels):
    gain = gain_for(levels)
    assert gain >= 1
    assert gain * levels <= 127 or gain == 1
    assert levels == 0 or (gain + 1) * levels > 127
