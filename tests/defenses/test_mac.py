"""MAC: its gate, its views, its last step worked out by hand, and what it shares with TTC."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.defenses.test_ttc import linear_classifier
from vlmdefense_demo.defenses.training_free.mac import MAC, SOFTNESS
from vlmdefense_demo.defenses.training_free.ttc import TTC
from vlmdefense_demo.defenses.weak import weak_copies
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.spec import fields

OPEN, SHUT = 0.0, 4.0
EPS = 8 / 255


def run(n=1, **kwargs):
    return tiny.run_for(n, **kwargs)


def counter(method, clf, x, n=1):
    return method._counter(clf, method._views(x, run(n)).detach(), n, run(n))


def test_the_published_constants_are_the_defaults():
    assert MAC() == MAC(views=2, eps=8 / 255, step_size=2 / 255, steps=4, threshold=0.7)


def test_one_linear_step_by_hand():
    """The last step counts whole: d = clip(d0 + a sign 2 W^T W d0), nothing of d0 beside it."""
    x = (tiny.images(1, 8) * 127 + 64).round() / 255
    clf, method = linear_classifier(), MAC(views=1, steps=1, threshold=OPEN)
    d0 = run().child("noise").uniform(x.unsqueeze(1), -EPS, EPS)[:, 0]
    weight = clf.backbone.visual.weight
    gradient = 2 * weight.T @ (weight @ d0.flatten())
    d1 = (d0 + 2 / 255 * gradient.view_as(d0).sign()).clamp(-EPS, EPS)
    out = method(clf, x, run=run())
    torch.testing.assert_close(out.logits, clf(x + d1), rtol=1e-4, atol=1e-5)


def test_the_gate_is_half_open_at_the_threshold_and_shut_a_tenth_below(clf):
    x = tiny.images(1)
    corruption = counter(MAC(views=1), clf, x).corruption[0, 0].item()
    half = counter(MAC(views=1, threshold=corruption), clf, x)
    below = counter(MAC(views=1, threshold=corruption + 0.1), clf, x)
    assert half.weight.item() == pytest.approx(0.5, abs=1e-3)
    assert below.weight.item() == 0
    assert torch.sigmoid(torch.tensor(-0.1 / SOFTNESS)) < 1e-4
    assert (below.delta == 0).all()


def test_the_gate_opens_where_ttcs_shuts(clf):
    """Far drift is suspicious here, little drift there."""
    x = tiny.images(1)
    ours = [counter(MAC(views=1, threshold=t), clf, x).weight.item() for t in (OPEN, SHUT)]
    theirs = [TTC(tau=t)(clf, x, run=run()).notes[0][1].value for t in (OPEN, SHUT)]
    assert ours == [1, 0]
    assert theirs == ["judged clean: noise only", "counterattacked"]


def test_the_corruption_is_the_relative_drift_under_a_fresh_small_change(clf):
    x, method = tiny.images(2), MAC(views=2)
    views = method._views(x, run(2))
    probes = weak_copies(views, 2, run(2).child("probe"))
    anchor, moved = (clf.encode_image(t, normalize=False) for t in (views, probes))
    expected = ((moved - anchor).norm(dim=1) / anchor.norm(dim=1)).view(2, 2)
    torch.testing.assert_close(counter(method, clf, x, 2).corruption, expected)
    assert not torch.equal(probes[1], views[1])  # fresh: not the change the view was made by


def test_a_shut_gate_answers_with_the_plain_mean_of_the_views_bit_for_bit(clf):
    x, method = tiny.images(2), MAC(views=3, threshold=SHUT)
    expected = clf(method._views(x, run(2))).view(2, 3, -1).mean(1)
    assert torch.equal(method(clf, x, run=run(2)).logits, expected)


def test_one_view_and_no_budget_is_the_undefended_answer(clf):
    x = tiny.images(2)
    out = MAC(views=1, eps=0.0, threshold=OPEN)(clf, x, run=run(2))
    torch.testing.assert_close(out.logits, clf(x))


@pytest.mark.parametrize("levels", [1, 8, 16])
def test_every_view_stays_in_its_ball_and_in_the_box(clf, levels):
    x = tiny.images(2)
    method = MAC(eps=levels / 255, step_size=1 / 255, threshold=OPEN)
    views = method._views(x, run(2))
    delta = counter(method, clf, x, 2).delta
    assert 0 < delta.abs().max() <= levels / 255 + 1e-6
    assert (views + delta).min() >= -1e-6
    assert (views + delta).max() <= 1 + 1e-6


def test_each_image_is_judged_alone(clf):
    x = tiny.images(6)
    found = counter(MAC(views=1), clf, x, 6).corruption[:, 0]
    middle = found.sort().values[3].item() + 1e-3
    weights = counter(MAC(views=1, threshold=middle), clf, x, 6).weight[:, 0]
    clear = (found - middle).abs() > 0.1
    assert clear.sum() >= 2
    assert (weights[clear] > 0.5).tolist() == (found > middle)[clear].tolist()


@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        ({"threshold": OPEN}, (14, 8)),
        ({"threshold": SHUT}, (6, 0)),
        ({"threshold": OPEN, "views": 1}, (7, 4)),
        ({"threshold": OPEN, "steps": 0}, (6, 0)),
    ],
)
def test_it_costs_fourteen_forwards_and_eight_backwards_unless_the_gate_is_shut(
    clf, settings, cost
):
    with clf.meter.stage() as spent:
        MAC(**settings)(clf, tiny.images(1), run=run())
    assert (spent.image_forward, spent.image_backward) == cost


def test_the_counterattack_is_a_constant_to_a_gradient(clf):
    x, method = tiny.images(1).requires_grad_(), MAC(views=1, threshold=OPEN)
    ours = torch.autograd.grad(method(clf, x, run=run()).logits[0, 0], x)[0]
    leaf = (x + counter(method, clf, x.detach()).delta).detach().requires_grad_()
    theirs = torch.autograd.grad(clf(leaf)[0, 0], leaf)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cls", [MAC, TTC])
def test_a_step_wider_than_the_ball_is_refused_with_the_reason(cls):
    cls(eps=1 / 255, step_size=2 / 255)
    assert {"eps", "step_size"} < {f.name for f in fields(cls)}
    with pytest.raises(InvalidParameter) as refused:
        cls(eps=1 / 255, step_size=3 / 255)
    assert "step_size=3/255 is wider than the whole ball of eps=1/255" in str(refused.value)
    cls(eps=0.0, step_size=3 / 255)  # no budget is no counterattack
