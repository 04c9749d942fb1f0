"""AGC, AOM and DBD: where on the sphere the feature goes, and what its own weight becomes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses.training_free.geodesic import (
    AGC,
    AOM,
    DBD,
    _rounded,
    geodesic,
)
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.models.classifier import unit


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 1.7, 2.25])
def test_the_great_circle_is_slerp_inside_and_beyond(beta):
    x, a = unit(seeded(2, 8))
    own, other = geodesic(x, a, torch.tensor(beta))
    z = own * x + other * a
    theta = math.acos(float(x @ a))
    expected = (math.sin((1 - beta) * theta) * x + math.sin(beta * theta) * a) / math.sin(theta)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)
    assert z.norm().item() == pytest.approx(1, abs=1e-5)


def test_without_an_angle_the_feature_stays():
    x = unit(seeded(1, 8))[0]
    assert geodesic(x, x, torch.tensor(2.0)) == (1, 0)


def test_views_that_agree_with_the_picture_leave_its_answer(clf):
    f = unit(seeded(1, clf.text_features.shape[1])).expand(9, -1)
    ballot = AGC(views=9).vote(clf, f, None)
    torch.testing.assert_close(ballot.answer, clf.logits(f)[0], rtol=1e-4, atol=1e-3)
    assert ballot.notes[0].value == pytest.approx(0.45, abs=1e-3)


def test_beta_stays_between_its_ends_and_grows_with_disagreement(clf):
    d = clf.text_features.shape[1]
    betas = []
    for apart in (0.1, 0.5, 2.0):
        views = unit(torch.ones(8, d) + 0.05 * seeded(8, d))
        x = unit(torch.ones(1, d) + apart * seeded(1, d, seed=1))
        betas.append(AGC(views=9).vote(clf, torch.cat([x, views]), None).notes[0].value)
    assert 0.45 <= betas[0] < betas[1] < betas[2] <= 2.25


def test_no_way_is_the_undefended_answer(clf):
    x = tiny.images(2)
    out = AGC(views=5, low=0.0, high=0.0)(clf, x, run=tiny.run_for(2))
    torch.testing.assert_close(out.logits, clf(x), rtol=1e-4, atol=1e-3)


def test_perspectives_of_an_image_are_its_own(clf):
    x = tiny.images(2)
    both = AGC(views=4).draw(clf, x, tiny.run_for(2))
    alone = AGC(views=4).draw(clf, x[1:], tiny.run_for(2).select([1]))
    torch.testing.assert_close(both[4:], alone)
    assert torch.equal(both[0], x[0])
    assert not torch.equal(both[1], both[2])


def test_past_the_views_the_picture_counts_against_its_own_answer(clf):
    """The card shows the coefficients: they are what answered."""
    d = clf.text_features.shape[1]
    views = unit(torch.ones(8, d) + 0.05 * seeded(8, d))
    f = torch.cat([unit(torch.ones(1, d) + 3 * seeded(1, d, seed=1)), views])
    ballot = AGC(views=9).vote(clf, f, None)
    assert ballot.notes[0].value > 1
    assert ballot.weights[0] < 0 < ballot.weights[1]
    feature = F.normalize(ballot.weights @ f, dim=0)
    torch.testing.assert_close(ballot.answer, clf.logits(feature[None])[0], rtol=1e-4, atol=1e-3)


def test_a_low_end_above_the_high_one_is_refused():
    with pytest.raises(InvalidParameter, match="is above high"):
        AGC(low=0.9, high=0.5)


# --- AOM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_aom_goes_the_given_part_of_the_way_to_the_mean_of_noisy_copies(clf, beta):
    x, method = tiny.images(1), AOM(views=6, beta=beta)
    pictures = method.draw(clf, x, tiny.run_for(1))
    f = clf.encode_image(pictures)
    anchor = F.normalize(f[1:].mean(0), dim=0)
    theta = math.acos(float(f[0] @ anchor))
    z = math.sin((1 - beta) * theta) * f[0] + math.sin(beta * theta) * anchor
    out = method(clf, x, run=tiny.run_for(1))
    expected = clf.logits(F.normalize(z, dim=0)[None])
    torch.testing.assert_close(out.logits, expected, rtol=1e-3, atol=1e-3)


def test_aoms_copies_are_the_picture_and_gaussian_noise(clf):
    x = tiny.images(2).clamp(0.45, 0.55)
    pictures = AOM(views=9, sigma=0.05).draw(clf, x, tiny.run_for(2)).unflatten(0, (2, 9))
    assert torch.equal(pictures[:, 0], x)
    noise = pictures[:, 1:] - x.unsqueeze(1)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.std().item() == pytest.approx(0.05, rel=0.02)
    assert not torch.equal(noise[:, 0], noise[:, 1])


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"beta": 0.0}])
def test_aom_of_no_strength_is_the_undefended_answer(clf, settings):
    x = tiny.images(2)
    out = AOM(views=4, **settings)(clf, x, run=tiny.run_for(2))
    torch.testing.assert_close(out.logits, clf(x), rtol=1e-4, atol=1e-3)


# --- DBD -----------------------------------------------------------------------------------------


def test_white_stays_bright_at_three_bits():
    """In 8-bit arithmetic 256 would be 0."""
    for copy in _rounded(torch.ones(1, 3, 8, 8)):
        assert (copy >= 224 / 255).all()
    grey = torch.full((1, 3, 8, 8), 100 / 255)
    down, near, up = _rounded(grey)
    assert [round(float(c.mean()) * 255) for c in (down, near, up)] == [96, 96, 128]


def features(clf, n, spread):
    """A picture's feature, and others that lie the same way from it."""
    d = clf.text_features.shape[1]
    x = unit(seeded(1, d))
    way = unit(seeded(1, d, seed=1))
    return torch.cat([x, x + way + spread * seeded(n - 1, d, seed=2)])


def test_directions_that_agree_go_past_the_mean_and_give_the_picture_a_negative_weight(clf):
    f = features(clf, 9, 0.01)
    ballot = DBD().vote(clf, f, None)
    assert ballot.notes[1].value == "-1.5"
    assert ballot.weights[0].item() == pytest.approx(-1.5)
    assert ballot.weights.sum().item() == pytest.approx(1, abs=1e-5)
    kept = list(ballot.chosen)
    z = F.normalize(2.5 * f[kept].mean(0) - 1.5 * f[0], dim=0)
    torch.testing.assert_close(ballot.answer, clf.logits(z[None])[0], rtol=1e-3, atol=1e-3)


def test_directions_that_differ_give_the_mean_of_the_kept(clf):
    d = clf.text_features.shape[1]
    f = torch.cat([unit(seeded(1, d)), unit(seeded(20, d, seed=3))])
    ballot = DBD().vote(clf, f, None)
    assert ballot.notes[0].value["value"] < 0.8
    z = F.normalize(f[list(ballot.chosen)].mean(0), dim=0)
    torch.testing.assert_close(ballot.answer, clf.logits(z[None])[0], rtol=1e-3, atol=1e-3)


def test_the_picture_itself_is_never_kept(clf):
    f = unit(seeded(12, clf.text_features.shape[1]))
    f[0] = clf.text_features[0]  # the most confident of all
    assert 0 not in DBD().vote(clf, f, None).chosen


def test_the_copies_are_the_ones_of_the_paper(clf):
    x = tiny.images(2)
    pictures = DBD(views=16).draw(clf, x, tiny.run_for(2)).unflatten(0, (2, -1))
    assert pictures.shape[1] == 32
    assert torch.equal(pictures[:, 0], x)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert len({tuple(p.flatten().tolist()) for p in pictures[0]}) == 32
