"""Randomised smoothing: the bound, the radius, and who abstains."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from tests import tiny
from vlmdefense_demo.defenses.training_free.smoothing import Smoothing, proven


@pytest.mark.parametrize("wins", [0, 30, 45, 56])
def test_the_bound_is_clopper_and_pearsons(wins):
    """The quantile of a beta distribution."""
    heads = torch.cat([torch.zeros(8 + wins), torch.ones(56 - wins)]).long()
    guess, bound = proven(heads, 3)
    expected = stats.beta.ppf(0.001, wins, 56 - wins + 1) if wins else 0.0
    assert guess == 0
    assert bound == pytest.approx(expected, abs=1e-9)


def test_what_guesses_proves_nothing():
    """The first eighth is not counted again."""
    heads = torch.ones(64).long()
    heads[:8] = 0
    assert proven(heads, 2) == (0, 0.0)


def test_the_radius_is_the_quantile_times_sigma():
    method = Smoothing(sigma=0.2)
    note = method._certificate("cat", 0.9)[1].value
    assert note == f"cat within an L2 radius of {0.2 * 1.2815515:.3f}"
    assert "none" in method._certificate("cat", 0.5)[1].value
    assert math.isclose(0.2 * float(stats.norm.ppf(0.5)), 0, abs_tol=1e-12)


def test_without_noise_all_votes_are_the_undefended_answer(clf):
    x = tiny.images(2)
    out = Smoothing(sigma=0.0, views=16)(clf, x, run=tiny.run_for(2))
    assert torch.equal(out.logits.argmax(1), clf(x).argmax(1))
    assert (out.logits.softmax(1).amax(1) > 0.999).all()


def test_noise_has_the_given_width_and_is_drawn_for_every_copy(clf):
    x = tiny.images(1)
    noise = Smoothing(sigma=0.25, views=16).draw(clf, x, tiny.run_for(1)) - x
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_votes_are_counted(clf):
    x = tiny.images(1)
    method = Smoothing(sigma=0.3, views=32)
    out = method(clf, x, run=tiny.run_for(1)).logits[0].softmax(0)
    heads = clf(method.draw(clf, x, tiny.run_for(1))).argmax(1)
    counts = torch.bincount(heads, minlength=len(tiny.LABELS)) / 32
    torch.testing.assert_close(out, counts, rtol=0, atol=1e-3)
