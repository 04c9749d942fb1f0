"""CSR: the low-pass, the gate, and steps that only ever get better."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests import tiny
from vlmdefense_demo.defenses.training_free.csr import CSR
from vlmdefense_demo.errors import InvalidParameter
from vlmdefense_demo.filters import blur, fourier_low_pass

OPEN, SHUT = 1.0, 0.0


def answer(clf, x, **settings):
    return CSR(**settings)(clf, x, run=tiny.run_for(len(x)))


@pytest.mark.parametrize("frequency", [8, 40, 100])
def test_a_wave_is_damped_by_its_frequency(frequency):
    wave = torch.cos(2 * torch.pi * frequency * torch.arange(224) / 224)
    x = (0.5 + 0.4 * wave).expand(1, 3, 224, 224)
    out = fourier_low_pass(x, 40.0) - 0.5
    expected = 0.4 * wave * torch.tensor(-(frequency**2) / 3200).exp()
    torch.testing.assert_close(out[0, 0, 0], expected, rtol=0, atol=1e-4)


def test_the_mean_stays_and_it_is_a_blur_of_nine_tenths_of_a_pixel():
    x = tiny.images(1, size=224)
    out = fourier_low_pass(x, 40.0)
    torch.testing.assert_close(out.mean(), x.mean(), rtol=0, atol=1e-4)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (out - blur(x, 224 / (2 * torch.pi * 40)))[inside].abs().max() < 5e-3


def test_a_picture_judged_clean_passes_bit_for_bit(clf):
    x = tiny.images(2)
    out = answer(clf, x, threshold=SHUT)
    assert torch.equal(out.image, x)
    torch.testing.assert_close(out.logits, clf(x))
    assert out.notes[0][1].value == "judged clean: left alone"


def test_a_shut_gate_costs_three_forwards(clf):
    with clf.meter.stage() as cost:
        answer(clf, tiny.images(1), threshold=SHUT)
    assert (cost.image_forward, cost.image_backward) == (3, 0)


def test_only_flagged_pictures_change(clf):
    x = tiny.images(4)
    cosines = [n[0].value["value"] for n in answer(clf, x, threshold=SHUT).notes]
    middle = sum(sorted(cosines)[1:3]) / 2
    out = answer(clf, x, threshold=middle)
    changed = (out.image != x).flatten(1).any(1).tolist()
    assert changed == [c < middle for c in cosines]


def test_the_score_begins_at_the_cosine_minus_one_and_never_falls(clf):
    notes = answer(clf, tiny.images(1), threshold=OPEN, steps=5).notes[0]
    cosine, scores = notes[0].value["value"], notes[2].value
    assert scores[0] == pytest.approx(cosine - 1, abs=1e-4)
    assert len(scores) == 6
    assert all(later >= earlier for earlier, later in pairwise(scores))
    assert scores[-1] > scores[0]


def test_the_change_stays_within_its_own_budget(clf):
    x = tiny.images(2)
    out = answer(clf, x, threshold=OPEN, steps=8, eps=3 / 255)
    assert 0 < (out.image - x).abs().max() <= 3 / 255 + 1e-6


def test_without_steps_the_undefended_model_answers(clf):
    x = tiny.images(2)
    assert torch.equal(answer(clf, x, threshold=OPEN, steps=0).image, x)


def test_the_attacker_climbs_by_the_picture_and_its_blur_and_is_told_what_the_defence_answers(clf):
    x = tiny.images(2)
    target = CSR(threshold=OPEN).surrogate(clf, tiny.run_for(2))
    x.requires_grad_()
    with torch.enable_grad():
        answered = target(x)
        smooth = (clf(x) + clf(fourier_low_pass(x, 40.0))) / 2
        slopes = [torch.autograd.grad(y[:, 0].sum(), x)[0] for y in (answered, smooth)]
    own = clf.logits(answer(clf, x.detach(), threshold=OPEN).features)
    torch.testing.assert_close(answered, own, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(own, smooth, atol=1e-2)
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)


def test_a_step_wider_than_the_ball_is_refused():
    with pytest.raises(InvalidParameter, match="wider than the whole ball"):
        CSR(eps=1 / 255, step_size=3 / 255)
