"""Anti-Adversary, ET3 and the hedge defence: the steps in closed form, and what they can and cannot undo."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from vlmdefense_demo.defenses.training_free.descent import ET3, AntiAdversary, Hedge
from vlmdefense_demo.errors import InvalidParameter

METHODS = (AntiAdversary, ET3, Hedge)


@pytest.mark.parametrize("method", METHODS)
def test_without_steps_the_undefended_model_answers(clf, method):
    x = tiny.images(2)
    assert torch.equal(method(steps=0)(clf, x, run=tiny.run_for(2)).logits, clf(x))


@pytest.mark.parametrize("method", METHODS[:2])
def test_steps_of_no_length_change_nothing(clf, method):
    x = tiny.images(2)
    out = method(step_size=0.0)(clf, x, run=tiny.run_for(2))
    assert torch.equal(out.image, x)


def test_a_step_is_a_sign_step_towards_the_first_answer(clf):
    x, a = tiny.images(2), 3 / 255
    out = AntiAdversary(steps=1, step_size=a)(clf, x, run=tiny.run_for(2))
    leaf = x.clone().requires_grad_()
    logits = clf(leaf)
    loss = F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
    gradient = torch.autograd.grad(loss, leaf)[0]
    steep = gradient.abs() > 1e-3 * gradient.abs().amax((1, 2, 3), keepdim=True)
    expected = (x - a * gradient.sign()).clamp(0, 1)
    assert steep.float().mean() > 0.5  # elsewhere rounding decides the sign
    torch.testing.assert_close(out.image[steep], expected[steep])


def test_the_first_answer_stays_the_target(clf):
    """Even where a step went past it: the note names it, and later energies are its own."""
    x = tiny.images(1)
    notes = AntiAdversary(steps=4, step_size=16 / 255)(clf, x, run=tiny.run_for(1)).notes[0]
    assert notes[0].value == clf.labels[int(clf(x).argmax(1))]
    assert notes[1].value[0] == pytest.approx(
        -float(clf(x).log_softmax(1).amax(1)), rel=1e-3, abs=1e-4
    )


def test_small_steps_lower_the_energy(clf):
    for method, size in ((AntiAdversary, 1e-3 / 255), (ET3, 1e-3)):
        energies = method(steps=4, step_size=size)(clf, tiny.images(1), run=tiny.run_for(1))
        series = energies.notes[0][1].value
        assert all(later < earlier for earlier, later in pairwise(series))


def test_the_energy_of_equal_logits_is_their_value_and_the_log_of_their_number(clf):
    logits = torch.full((1, 5), 2.0)
    assert ET3().energy(logits, torch.zeros(1)).item() == pytest.approx(-(2 + math.log(5)))


def test_an_energy_step_has_its_length_and_stays_in_the_ball(clf):
    x = tiny.images(1).clamp(0.3, 0.7)
    short = ET3(steps=1, step_size=0.1, eps=16 / 255)(clf, x, run=tiny.run_for(1)).image
    assert (short - x).norm().item() == pytest.approx(0.1, rel=1e-3)
    long = ET3(steps=3, step_size=10.0, eps=2 / 255)(clf, x, run=tiny.run_for(1)).image
    assert (long - x).abs().max() <= 2 / 255 + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_change_is_a_constant_to_a_gradient(clf, method):
    x = tiny.images(1).requires_grad_()
    out = method()(clf, x, run=tiny.run_for(1))
    ours = torch.autograd.grad(out.logits[0, 0], x)[0]
    leaf = out.image.clone().requires_grad_()
    theirs = torch.autograd.grad(clf(leaf)[0, 0], leaf)[0]
    inside = (leaf > 0) & (leaf < 1)
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=1e-4, atol=1e-5)


def test_nothing_is_drawn(clf):
    x = tiny.images(1)
    one, two = (ET3()(clf, x, run=tiny.run_for(1, seed=s)).logits for s in (0, 1))
    assert torch.equal(one, two)


# --- the hedge defence ---------------------------------------------------------------------------


def hedge_start(x, eps):
    return tiny.run_for(len(x)).child("start").uniform(x, -eps, eps)


def test_hedging_is_the_sum_over_all_labels_of_the_cross_entropy(clf):
    logits = clf(tiny.images(3))
    k = logits.shape[1]
    each = [F.cross_entropy(logits, torch.full((3,), c), reduction="none") for c in range(k)]
    energy = Hedge().energy(logits, logits.argmax(1))
    torch.testing.assert_close(energy, -torch.stack(each).sum(0) / k)
    uniform = torch.full_like(logits, 1 / k)
    divergence = F.kl_div(logits.log_softmax(1), uniform, reduction="none").sum(1)
    torch.testing.assert_close(energy, -divergence - math.log(k))


def test_a_hedging_step_by_hand(clf):
    """grad of the mean of the logits' log-softmax: mean_c grad l_c - sum_c p_c grad l_c."""
    x, a, eps = tiny.images(1).clamp(0.3, 0.7), 2 / 255, 8 / 255
    out = Hedge(steps=1, step_size=a, eps=eps)(clf, x, run=tiny.run_for(1))
    d0 = hedge_start(x, eps)
    leaf = (x + d0).requires_grad_()
    logits = clf(leaf)[0]
    rows = [torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in logits]
    p = logits.detach().softmax(0)
    gradient = sum((1 / len(p) - share) * row for share, row in zip(p, rows, strict=True))
    steep = gradient.abs() > 1e-3 * gradient.abs().max()
    expected = x + (d0 - a * gradient.sign()).clamp(-eps, eps)
    assert steep.float().mean() > 0.5
    torch.testing.assert_close(out.image[steep], expected[steep])


def test_hedging_leads_away_from_the_uniform_answer_and_stays_in_its_ball(clf):
    x = tiny.images(3)
    out = Hedge(steps=10)(clf, x, run=tiny.run_for(3))
    assert (out.image - x).abs().max() <= 8 / 255 + 1e-6
    noise = clf((x + hedge_start(x, 8 / 255)).clamp(0, 1)).log_softmax(1).mean(1)
    # The mean log-probability is largest for the uniform answer, and hedging lowers it.
    assert (out.logits.log_softmax(1).mean(1) < noise).all()


def test_a_hedging_step_wider_than_its_ball_is_refused():
    with pytest.raises(InvalidParameter, match="wider than the whole ball"):
        Hedge(step_size=5 / 255, eps=2 / 255)


def test_who_knows_the_hedge_attacks_the_answer_to_fresh_starts_in_one_forward(clf):
    x = tiny.images(1)
    run = tiny.run_for(1)
    target = Hedge().surrogate(clf, run)
    with clf.meter.stage() as cost:
        first, second = target(x), target(x)
    assert (cost.image_forward, cost.image_backward) == (2, 0)
    for answer, draw in ((first, "draw0"), (second, "draw1")):
        noise = run.child(draw).child("start").uniform(x, -8 / 255, 8 / 255)
        torch.testing.assert_close(answer, clf((x + noise).clamp(0, 1)))
    assert torch.equal(Hedge(steps=0).surrogate(clf, run)(x), clf(x))


def test_on_a_sure_model_hedging_keeps_the_answer_to_its_start(clf, monkeypatch):
    """The sum over all labels grows most where the first one is set further ahead."""
    x = tiny.images(4)
    monkeypatch.setattr(clf.backbone, "logit_scale", 1000.0)
    start = clf((x + hedge_start(x, 8 / 255)).clamp(0, 1)).softmax(1)
    assert start.amax(1).min() > 0.9
    out = Hedge()(clf, x, run=tiny.run_for(4)).logits
    assert torch.equal(out.argmax(1), start.argmax(1))


@pytest.mark.parametrize("method", METHODS[:2])
def test_who_knows_the_steps_takes_the_mean_of_the_slopes_where_they_begin_and_end(clf, method):
    x = tiny.images(2).requires_grad_()
    out = method()(clf, x, run=tiny.run_for(2))
    seen = method().surrogate(clf, tiny.run_for(2))(x)
    torch.testing.assert_close(seen, out.logits)
    ours, end, begin = (
        torch.autograd.grad(answer[:, 0].sum(), x)[0] for answer in (seen, out.logits, clf(x))
    )
    torch.testing.assert_close(ours, (begin + end) / 2)
    assert not torch.allclose(begin, end, rtol=0.1)
