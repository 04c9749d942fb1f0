"""Pictures of a perturbation on a stated scale."""

from __future__ import annotations

import numpy as np
import pytest

from vlmdefense_demo.heatmap import (
    fine_share,
    gain_for,
    looks,
    magnitude,
    signed_difference,
    spectrum,
    top_for,
)


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


def wave(cycles: int, amplitude: float, size: int = 64) -> np.ndarray:
    """(size, size, 3) a cosine across, around 128, in whole levels for cycles of size / 2 or / 4."""
    across = amplitude * np.cos(2 * np.pi * cycles * np.arange(size) / size)
    return np.broadcast_to((128 + across.round())[None, :, None], (size, size, 3)).astype(np.uint8)


FLAT = np.full((64, 64, 3), 128, np.uint8)


def test_the_energy_of_a_wave_lies_at_its_frequency():
    drawn = np.asarray(spectrum(FLAT, wave(8, 16))).astype(int).sum(axis=2)
    top = np.argwhere(drawn == drawn.max())
    assert top.tolist() == [[32, 24], [32, 40]]  # zero is at 32; eight cycles to either side


@pytest.mark.parametrize(("cycles", "share"), [(0, 0.0), (8, 0.0), (16, 0.0), (24, 1.0), (32, 1.0)])
def test_fine_is_what_is_above_half_nyquist(cycles, share):
    found, noise = fine_share(FLAT, wave(cycles, 16))
    assert found == pytest.approx(share, abs=0.01)
    assert noise == pytest.approx(1 - np.pi / 16, abs=0.01)  # the square without its quarter disc


def test_white_noise_has_the_share_that_is_stated_for_it():
    noise = np.random.default_rng(0).integers(-20, 21, (64, 64, 1))
    found, expected = fine_share(FLAT, (128 + noise).repeat(3, axis=2).astype(np.uint8))
    assert found == pytest.approx(expected, abs=0.02)


def test_nothing_has_no_fine_share():
    assert fine_share(FLAT, FLAT)[0] == 0


def test_the_spectrum_has_a_fixed_scale():
    faint, strong = (np.asarray(spectrum(FLAT, wave(8, a)))[32, 40].astype(int) for a in (1, 2))
    assert faint.sum() < strong.sum()
    assert (np.asarray(spectrum(FLAT, FLAT)).reshape(-1, 3) == [0, 0, 4]).all()


def test_both_looks_are_on_one_scale():
    grids = {"clean": [[0.0, 2.0], [0.0, 0.0]], "attacked": [[0.0, 4.0], [0.0, 0.0]]}
    one, two, top = looks(FLAT, FLAT, grids)
    assert top == 4
    one, two = (np.asarray(p).astype(int).sum(axis=2) for p in (one, two))
    assert one[5, 58] < two[5, 58]
    assert one[58, 5] == two[58, 5]  # where neither looks
    same, again, _ = looks(FLAT, FLAT, {"clean": grids["clean"], "attacked": grids["clean"]})
    assert np.array_equal(np.asarray(same), np.asarray(again))
    assert looks(FLAT, FLAT, {key: [[0.0]] for key in ("clean", "attacked")})[2] == 0


@pytest.mark.parametrize(
    ("linf", "params", "top"), [(3, {"eps": 4}, 4), (9, {"eps": 4}, 9), (0, {}, 1), (7, {}, 7)]
)
def test_a_scale_ends_at_what_was_allowed(linf, params, top):
    assert top_for(linf, params) == top
