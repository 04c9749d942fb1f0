"""TTC: its weights, its gate, its ball, and one step worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests import tiny
from vlmdefense_demo.defenses.training_free.ttc import TTC
from vlmdefense_demo.models.backbone import Backbone, Preprocess

OPEN, SHUT = 4.0, 0.0
EPS = 4 / 255


def run(n=1, **kwargs):
    return tiny.run_for(n, **kwargs)


def noise(x, method):
    """The noise TTC starts from, drawn the way its docstring says."""
    drawn = tiny.run_for(len(x)).child("noise").uniform(x, -method.eps, method.eps)
    return (x + drawn).clamp(0, 1) - x


class Flat(nn.Module):
    """f(x) = W x for pixels as they are: its gradients are known."""

    def __init__(self, size=8, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(scale * torch.randn(6, 3 * size * size, generator=generator))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


class FlatModel(nn.Module):
    context_length = 8

    def __init__(self, scale):
        super().__init__()
        self.visual, self.logit_scale = Flat(scale=scale), nn.Parameter(torch.zeros(()))

    def encode_text(self, ids, normalize):
        return torch.nn.functional.one_hot(ids[:, 0], 6).float()


def linear_classifier(scale=1.0):
    def tokenizer(prompts):
        return torch.arange(len(prompts)).unsqueeze(1)

    preprocess = Preprocess(8, (0.0,) * 3, (1.0,) * 3)
    return tiny.classifier(Backbone("flat", FlatModel(scale), tokenizer, preprocess))


def test_later_steps_weigh_more_exactly_as_published():
    """Noise and two steps enter with exp(2 i) / sum: read off three clearly different pixels."""
    x = torch.full((1, 3, 8, 8), 0.5)
    clf, method = linear_classifier(), TTC(tau=OPEN, steps=2, beta=2.0)
    d0 = noise(x, method)
    weight = clf.backbone.visual.weight

    def step(d):
        gradient = (2 * (d.flatten() @ weight.T) @ weight).view_as(d)
        return (d + method.step_size * gradient.sign()).clamp(-method.eps, method.eps)

    d1 = step(d0)
    d2 = step(d1)
    expected = x + 0.01588 * d0 + 0.11731 * d1 + 0.86681 * d2
    out = method(clf, x, run=run())
    torch.testing.assert_close(out.image, expected, rtol=0, atol=2e-5 * EPS + 1e-6)


def test_one_linear_step_by_hand():
    """gradient of ||W d||^2 is 2 W^T W d; one step, weights softmax(0, beta)."""
    x = (tiny.images(1, 8) * 127 + 64).round() / 255
    clf, method = linear_classifier(), TTC(tau=OPEN, steps=1, step_size=1 / 255, beta=1.0)
    d0, weight = noise(x, method), clf.backbone.visual.weight
    gradient = 2 * weight.T @ (weight @ d0.flatten())
    d1 = (d0 + gradient.view_as(d0).sign() / 255).clamp(-EPS, EPS)
    early, late = torch.softmax(torch.tensor([0.0, 1.0]), 0)
    out = method(clf, x, run=run())
    torch.testing.assert_close(out.image, x + early * d0 + late * d1, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.logits, clf(out.image))


def test_the_counterattack_moves_the_feature_further_than_noise(clf):
    x = tiny.images(4)
    anchor = clf.encode_image(x, normalize=False)

    def drift(tau):
        image = TTC(tau=tau, steps=5)(clf, x, run=run(4)).image
        return (clf.encode_image(image, normalize=False) - anchor).norm(dim=1)

    assert (drift(OPEN) > drift(SHUT)).all()


@pytest.mark.parametrize("tau", [OPEN, SHUT])
@pytest.mark.parametrize("levels", [1, 4, 16])
def test_both_gates_stay_in_the_ball_and_the_box(clf, tau, levels):
    x = tiny.images(3)
    assert (x == 0).any()
    assert (x == 1).any()
    out = TTC(eps=levels / 255, step_size=min(4, 2 * levels) / 255, tau=tau)(clf, x, run=run(3))
    assert (out.image - x).abs().max() <= levels / 255 + 1e-6
    assert out.image.min() >= 0
    assert out.image.max() <= 1


def test_a_shut_gate_leaves_the_noise_alone_bit_for_bit(clf):
    x, method = tiny.images(3), TTC(tau=SHUT)
    out = method(clf, x, run=run(3))
    assert torch.equal(out.image, (x + noise(x, method)).clamp(0, 1))
    assert not torch.equal(out.image, x)
    assert "noise only" in out.notes[0][1].value


def test_an_open_gate_counterattacks(clf):
    x, method = tiny.images(3), TTC(tau=OPEN)
    out = method(clf, x, run=run(3))
    assert all(not torch.equal(a, b) for a, b in zip(out.image, x + noise(x, method), strict=True))
    assert out.notes[0][1].value == "counterattacked"


def test_no_steps_are_noise_whatever_the_gate(clf):
    x = tiny.images(2)
    shut, opened = (TTC(tau=t, steps=0)(clf, x, run=run(2)).image for t in (SHUT, OPEN))
    torch.testing.assert_close(opened, shut, rtol=0, atol=1e-7)
    torch.testing.assert_close(opened, x + noise(x, TTC()), rtol=0, atol=1e-6)


def test_the_gate_opens_strictly_below_the_threshold(clf):
    x = tiny.images(1)
    measured = TTC()(clf, x, run=run()).notes[0][0].value["value"]
    method = TTC(tau=OPEN)
    equal = replace(method, tau=measured)(clf, x, run=run())
    above = replace(method, tau=measured * 1.001)(clf, x, run=run())
    assert "noise only" in equal.notes[0][1].value
    assert above.notes[0][1].value == "counterattacked"


def test_the_gate_decides_for_every_image_alone(clf):
    x = tiny.images(6)
    taus = [n[0].value["value"] for n in TTC()(clf, x, run=run(6)).notes]
    middle = sorted(taus)[3]
    out = TTC(tau=middle)(clf, x, run=run(6))
    opened = [n[1].value == "counterattacked" for n in out.notes]
    assert opened == [t < middle for t in taus]
    assert 0 < sum(opened) < 6
    noisy = (x + noise(x, TTC())).clamp(0, 1)
    kept = [bool(torch.equal(a, b)) for a, b in zip(out.image, noisy, strict=True)]
    assert kept == [not o for o in opened]


def test_tau_does_not_depend_on_the_scale_of_the_features():
    x = tiny.images(3, 8)
    small, large = (
        [n[0].value["value"] for n in TTC()(linear_classifier(s), x, run=run(3)).notes]
        for s in (1.0, 1000.0)
    )
    assert small == pytest.approx(large, rel=1e-4)


def test_tau_is_the_relative_drift_under_the_noise(clf):
    x, method = tiny.images(2), TTC()
    anchor = clf.encode_image(x, normalize=False)
    moved = clf.encode_image(x + noise(x, method), normalize=False)
    expected = (moved - anchor).norm(dim=1) / anchor.norm(dim=1)
    taus = [n[0].value["value"] for n in method(clf, x, run=run(2)).notes]
    assert taus == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("tau", "steps", "cost"),
    [(OPEN, 2, (4, 2)), (OPEN, 5, (7, 5)), (SHUT, 2, (3, 0)), (OPEN, 0, (3, 0))],
)
def test_a_shut_gate_spends_no_gradient(clf, tau, steps, cost):
    with clf.meter.stage() as spent:
        TTC(tau=tau, steps=steps)(clf, tiny.images(1), run=run())
    assert (spent.image_forward, spent.image_backward) == cost


def test_features_and_logits_belong_to_the_image_that_is_shown(clf):
    out = TTC(tau=OPEN)(clf, tiny.images(2), run=run(2))
    torch.testing.assert_close(clf.encode_image(out.image), out.features)
    torch.testing.assert_close(clf.logits(out.features), out.logits)
