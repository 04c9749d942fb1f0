"""TTE, ZERO and MTA: who votes, and how the votes are counted."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.multiview import entropy
from vlmdefense_demo.defenses.training_free.votes import MTA, TTE, Votes, Zero, inlierness
from vlmdefense_demo.defenses.views import random_views
from vlmdefense_demo.models.classifier import unit


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- TTE -----------------------------------------------------------------------------------------


def test_the_crops_are_different_ones(clf):
    """The authors' loop makes every crop the last one."""
    x = tiny.images(1)
    pictures = TTE(views=10).draw(clf, x, tiny.run_for(1))
    assert torch.equal(pictures[0], x[0])
    assert len({tuple(p.flatten().tolist()) for p in pictures}) == 10
    for one, mirrored in zip(pictures[::2], pictures[1::2], strict=True):
        assert torch.equal(one.flip(2), mirrored)


def test_a_crop_is_the_picture_a_few_pixels_further(clf):
    x = tiny.images(1)
    crop = TTE(views=4).draw(clf, x, tiny.run_for(1))[2]
    shifts = [(d, r) for d in range(-4, 5) for r in range(-4, 5)]
    matches = [
        (d, r)
        for d, r in shifts
        if torch.equal(crop[:, 4:-4, 4:-4], x[0].roll((-d, -r), (1, 2))[:, 4:-4, 4:-4])
    ]
    assert len(matches) == 1
    assert matches != [(0, 0)]


def test_nothing_is_drawn_and_the_mean_is_plain(clf):
    x = tiny.images(2)
    one = TTE()(clf, x, run=tiny.run_for(2)).logits
    assert torch.equal(one, TTE()(clf, x, run=tiny.run_for(2, seed=5)).logits)
    pictures = TTE().draw(clf, x, tiny.run_for(2))
    expected = clf(pictures).unflatten(0, (2, 10)).mean(1)
    torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-3)


def test_all_copies_of_one_colour_are_equal(clf):
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert (TTE().draw(clf, flat, tiny.run_for(1)) == 0.3).all()


# --- ZERO ----------------------------------------------------------------------------------------


def test_heads_are_counted_among_the_most_confident(clf):
    x = tiny.images(1)
    out = Zero(views=20)(clf, x, run=tiny.run_for(1)).logits[0].softmax(0)
    logits = clf(random_views(x, 20, tiny.run_for(1).child("views")))
    chosen = entropy(logits).argsort()[:6]  # 30 % of 20
    counts = torch.bincount(logits[chosen].argmax(1), minlength=len(tiny.LABELS)) / 6
    torch.testing.assert_close(out, counts, rtol=0, atol=1e-3)


def test_a_tie_is_not_decided_by_the_order_of_the_labels():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 9.0, 1.0]])
    for order in ([0, 1, 2], [1, 0, 2]):
        answer = Votes(logits[:, order], torch.full((2,), 0.5)).answer
        assert order[int(answer.argmax())] == 1, "whose voters are surer"


def test_a_vote_has_the_slope_of_its_softmax(clf):
    method, f = Zero(views=4, share=1.0), unit(seeded(4, clf.text_features.shape[1]))
    f = f.requires_grad_()
    answer = method.vote(clf, f, None).answer
    gradient = torch.autograd.grad(answer.exp()[0], f)[0]
    expected = torch.autograd.grad(clf.logits(f).softmax(1)[:, 0].mean(), f)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert gradient.abs().sum() > 0


# --- MTA -----------------------------------------------------------------------------------------


def test_a_far_outlier_with_an_answer_of_its_own_counts_for_nothing():
    f = unit(torch.ones(9, 8) + 0.1 * seeded(9, 8))
    f[5] = -f[5]
    probs = torch.tensor([[0.9, 0.1]]).repeat(9, 1)
    probs[5] = torch.tensor([0.1, 0.9])
    weights = inlierness(f, probs)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[5] < 1e-3


def test_equal_views_count_alike_and_the_mode_is_their_feature(clf):
    f = unit(seeded(1, clf.text_features.shape[1])).expand(6, -1)
    weights = inlierness(f, clf.logits(f).softmax(1))
    torch.testing.assert_close(weights, torch.full((6,), 1 / 6))
    answer = MTA(views=6).vote(clf, f, None).answer
    torch.testing.assert_close(answer, clf.logits(f)[0], rtol=1e-4, atol=1e-3)


def test_the_order_of_the_other_views_does_not_matter():
    """The first is where the search starts."""
    f, probs = unit(torch.ones(8, 6) + 0.4 * seeded(8, 6)), (2 * seeded(8, 3, seed=1)).softmax(1)
    order = torch.tensor([0, 3, 1, 2, 7, 6, 5, 4])
    torch.testing.assert_close(
        inlierness(f[order], probs[order]), inlierness(f, probs)[order], rtol=1e-3, atol=1e-4
    )


def test_the_mode_lies_among_the_many_not_at_the_image(clf):
    """Seven views agree, the picture itself is elsewhere: the answer is theirs."""
    d = clf.text_features.shape[1]
    centre = clf.text_features[1]
    f = unit(torch.cat([clf.text_features[:1], centre + 0.05 * seeded(7, d)]))
    assert MTA(views=8).vote(clf, f, None).answer.argmax() == 1
    assert clf.logits(f)[0].argmax() == 0


def test_a_gradient_reaches_the_views_that_count(clf):
    f = unit(seeded(6, clf.text_features.shape[1])).requires_grad_()
    ballot = MTA(views=6).vote(clf, f, None)
    gradient = torch.autograd.grad(ballot.answer[0], f)[0].norm(dim=1)
    assert gradient[ballot.weights.argmax()] > 0
